import json, secrets, socket, sys, urllib.parse

url = urllib.parse.urlsplit(sys.argv[1])
subject, inbox = "far.v1.local.evt.dc1.resource.VM=2Fweb-1.changed", f"_INBOX.{secrets.token_hex(8)}"
body = json.dumps({"kind": "VM", "id": "web-1", "revision": "1", "state": {"cpus": 2}})
with socket.create_connection((url.hostname, url.port), timeout=30) as nats:
    nats.sendall(f'CONNECT {{"user": "{url.username}", "pass": "{url.password}"}}\r\nSUB {inbox} 1\r\n'.encode())
    nats.sendall(f"PUB {subject} {inbox} {len(body)}\r\n{body}\r\n".encode())
    print(next(line for line in nats.makefile() if line.startswith(("{", "-ERR"))), end="")
