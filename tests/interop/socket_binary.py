import json, secrets, socket, sys, urllib.parse

url = urllib.parse.urlsplit(sys.argv[1])
subject, inbox = "far.v1.local.evt.dc1.resource.VM=2Fweb-3.changed", f"_INBOX.{secrets.token_hex(8)}"
body = json.dumps({"kind": "VM", "id": "web-3", "revision": "3", "state": {"cpus": 8}})
head = ("NATS/1.0\r\nce-specversion: 1.0\r\nce-id: w-3\r\nce-source: /local/dc1/resource/cmdb\r\n"
        "ce-type: resource.changed\r\ncontent-type: application/json\r\nNats-Msg-Id: dc1/w-3\r\n\r\n")
with socket.create_connection((url.hostname, url.port), timeout=30) as nats:
    nats.sendall(f'CONNECT {{"user": "{url.username}", "pass": "{url.password}", "headers": true}}\r\nSUB {inbox} 1\r\n'.encode())
    nats.sendall(f"HPUB {subject} {inbox} {len(head)} {len(head + body)}\r\n{head}{body}\r\n".encode())
    print(next(line for line in nats.makefile() if line.startswith(("{", "-ERR"))), end="")
