#!/usr/bin/env python3
"""The contract's test vectors, computed without a line of Farside's code: Python's standard library only.

    python3 bus-schema/golden/vectors.py            writes chain.json, digest.json, proof.json, ...
    python3 bus-schema/golden/vectors.py --check    fails when a file differs

A publisher in another language can be tested with the same files; this script is also the shortest
description of the chain, the digest, the token and the state hash.
"""

import base64
import decimal
import hashlib
import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def sha256(data):
    return hashlib.sha256(data).digest()


def fields_hash(domain, *fields):
    """SHA-256 over fields, each preceded by its length in bytes as a 32-bit big-endian number."""
    hasher = hashlib.sha256()
    for field in (domain.encode(), *fields):
        hasher.update(len(field).to_bytes(4, "big") + field)
    return hasher.digest()


# --- entity token -------------------------------------------------------------------------------


def token(key):
    literal = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"
    text = "".join(chr(b) if b in literal else f"={b:02X}" for b in key.encode())
    if len(text) <= 180:
        return text
    return "~" + base64.b32encode(sha256(key.encode())).decode().rstrip("=")


def token_vectors():
    keys = [
        "Deployment/shop/cart",
        "v1.Pod/kube-system/coredns-7db6d8ff4d-x2v9q",
        "aws_instance/module.web[\"blue\"].aws_instance.this[0]",
        "host/edge-01.example.net",
        "name with blanks/and * and > and =",
        "Gerät/größe/ü",
        "图像/仓库",
        "a=2Fb",
        "a/b",
        "~tilde",
        "x" * 180,
        "x" * 181,
        "ConfigMap/" + "very/long/" * 40,
    ]
    return [{"key": key, "token": token(key)} for key in keys]


# --- state hash: SHA-256 over RFC 8785 text ------------------------------------------------------


def es_number(value):
    """A double as ECMAScript writes it (RFC 8785, 3.2.2.3)."""
    value = float(value)
    if value == 0:
        return "0"
    if value < 0:
        return "-" + es_number(-value)
    # repr gives the shortest digits that read back as the same double, as ECMAScript demands.
    _, digits, exponent = decimal.Decimal(repr(value)).normalize().as_tuple()
    digits = "".join(map(str, digits))
    n = len(digits) + exponent
    k = len(digits)
    if k <= n <= 21:
        return digits + "0" * (n - k)
    if 0 < n <= 21:
        return digits[:n] + "." + digits[n:]
    if -6 < n <= 0:
        return "0." + "0" * -n + digits
    sign = "+" if n > 0 else "-"
    fraction = "." + digits[1:] if k > 1 else ""
    return f"{digits[0]}{fraction}e{sign}{abs(n - 1)}"


def canonical(value):
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, (int, float)):
        return es_number(value)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, list):
        return "[" + ",".join(map(canonical, value)) + "]"
    keys = sorted(value, key=lambda key: key.encode("utf-16-be"))
    return "{" + ",".join(f"{canonical(key)}:{canonical(value[key])}" for key in keys) + "}"


def state_hash(text):
    return sha256(canonical(json.loads(text)).encode()).hex()


def state_hash_vectors():
    texts = [
        "{}",
        "null",
        '"text"',
        '{"b":1,"a":[true,false,null]}',
        '{ "a" : [ true , false , null ] , "b" : 1 }',
        '{"replicas":3,"image":"registry.example.net/shop/cart:1.14.2","cpu":0.25}',
        '{"numbers":[0,-0,1,-1,0.1,1.0,100,1e2,1e21,1e20,123456789012345680000,1e-6,1e-7,5e-324,1.7976931348623157e308]}',
        '{"beyond":9007199254740993,"same":9007199254740992}',
        '{"\\u20ac":"Euro","\\r":"CR","1":"One","\\u0080":"Control","\\ud83d\\ude00":"Smiley","\\u00f6":"o","\\ufb33":"Dagesh","<":"tag"}',
        '{"escapes":"\\"\\\\\\/\\b\\f\\n\\r\\t\\u0000\\u001f\\u007f\\u2028"}',
        '{"nested":{"z":{"y":[{"x":[]}]}},"a":{}}',
    ]
    return [
        {"state": text, "canonical": canonical(json.loads(text)), "hash": state_hash(text)} for text in texts
    ]


# --- chain --------------------------------------------------------------------------------------


def chain_hash(event):
    return fields_hash(
        "farside chain v1",
        event["source"].encode(),
        event["id"].encode(),
        event["type"].encode(),
        event["subject"].encode(),
        event["time"].encode(),
        event["epoch"].encode(),
        event["seq"].encode(),
        bytes.fromhex(event["prev"]),
        sha256(event["body"].encode()),
    )


def chain_vectors():
    source = "/local/prod-eu/resource/inventory"
    prefix = "far.v1.local.evt.prod-eu.resource"
    cart = "Deployment/shop/cart"
    steps = [
        ("0193519a-2c00-7000-8000-000000000001", "changed", cart, "2026-11-22T04:31:48.123Z",
         '{"kind":"Deployment","id":"shop/cart","revision":"81342","state":{"replicas":3}}'),
        ("0193519a-2c01-7000-8000-000000000002", "changed", cart, "2026-11-22T04:31:48.124Z",
         '{"kind":"Deployment","id":"shop/cart","revision":"81343","state":{"replicas":5}}'),
        ("0193519a-2c02-7000-8000-000000000003", "deleted", "Café/größe", "2026-11-22T04:31:49.000Z",
         '{"kind":"Café","id":"größe"}'),
        ("0193519a-2c03-7000-8000-000000000004", "deleted", cart, "",
         '{"kind":"Deployment","id":"shop/cart"}'),
    ]
    prev, events = "00" * 32, []
    for seq, (event_id, name, key, time, body) in enumerate(steps, start=1):
        event = {
            "source": source,
            "id": event_id,
            "type": f"resource.{name}",
            "subject": f"{prefix}.{token(key)}.{name}",
            "time": time,
            "epoch": "9f3c66a1d204e7b8",
            "seq": str(seq),
            "prev": prev,
            "body": body,
        }
        event["hash"] = prev = chain_hash(event).hex()
        events.append(event)
    return events


# --- proof: message hash and running hash of a log --------------------------------------------------


def number(value):
    return value.to_bytes(8, "big")


def message_hash(message):
    headers = sorted((name.encode(), value.encode()) for name, value in message["headers"])
    return fields_hash(
        "farside message v2",
        number(message["seq"]),
        number(message["stored_at_unix_ms"]),
        number(len(headers)),
        message["subject"].encode(),
        *(part for header in headers for part in header),
        sha256(message["body"].encode()),
    )


def proof_vectors():
    subject = f"far.v1.local.evt.prod-eu.resource.{token('Deployment/shop/cart')}.changed"
    body = '{"kind":"Deployment","id":"shop/cart","revision":"81342","state":{"replicas":3}}'
    ce = [["ce-specversion", "1.0"], ["ce-id", "a-1"], ["Nats-Msg-Id", "prod-eu/a-1"], ["ce-type", "resource.changed"]]
    messages = [
        {"seq": 1, "stored_at_unix_ms": 1795321908123, "subject": subject, "headers": [], "body": body},
        {"seq": 2, "stored_at_unix_ms": 1795321908124, "subject": subject, "headers": ce, "body": body},
        {"seq": 4, "stored_at_unix_ms": 1795321908124, "subject": subject, "headers": [["a", "ü"], ["a", "b"]], "body": ""},
    ]
    running = bytes(32)
    for message in messages:
        running = fields_hash("farside log v1", running, message_hash(message))
        message.update(hash=message_hash(message).hex(), running=running.hex())
    return messages


# --- digest -------------------------------------------------------------------------------------


def item(key, revision, hash_hex):
    return fields_hash("farside item v1", key.encode(), revision.encode(), bytes.fromhex(hash_hex))[:16]


def xor(nodes):
    total = 0
    for node in nodes:
        total ^= int.from_bytes(node, "big")
    return f"{total:032x}"


def digest_vectors():
    def resources(count):
        for n in range(count):
            key = f"Pod/shop/cart-{n}"
            state = f'{{"n":{n}}}'
            yield {"key": key, "revision": str(n * 7), "state": state, "state_hash": state_hash(state)}

    few = []
    for resource in resources(5):
        address = sha256(resource["key"].encode()).hex()
        node = item(resource["key"], resource["revision"], resource["state_hash"])
        few.append({**resource, "address": address, "leaf_at_depth_2": int(address[:2], 16), "item": node.hex()})
    sets = []
    for count in (0, 1, 5, 4097):
        members = [
            (sha256(r["key"].encode()).hex(), item(r["key"], r["revision"], r["state_hash"]))
            for r in resources(count)
        ]
        depth = 2
        while depth < 6 and count > 16 * 16**depth:
            depth += 1
        level_1 = [xor(node for address, node in members if int(address[0], 16) == n) for n in range(16)]
        sets.append(
            {"count": str(count), "depth": depth, "root": xor(node for _, node in members), "level_1": level_1}
        )
    rows = sorted(resources(5), key=lambda r: r["key"].encode())
    fields = [part for r in rows for part in (r["key"].encode(), r["revision"].encode(), bytes.fromhex(r["state_hash"]))]
    return {
        "rows_sha256": fields_hash("farside rows v1", *fields).hex(),
        "rule": "resource n of a set: key Pod/shop/cart-<n>, revision 7*n, state {\"n\":<n>}",
        "items": few,
        "sets": sets,
    }


FILES = {
    "chain.json": chain_vectors,
    "digest.json": digest_vectors,
    "proof.json": proof_vectors,
    "token.json": token_vectors,
    "state_hash.json": state_hash_vectors,
}


def main():
    check = sys.argv[1:] == ["--check"]
    differ = []
    for name, make in FILES.items():
        text = json.dumps(make(), indent=2) + "\n"
        path = HERE / name
        if not check:
            path.write_text(text, encoding="utf-8")
        elif not path.is_file() or path.read_text(encoding="utf-8") != text:
            differ.append(name)
    if differ:
        print(f"differ from vectors.py: {', '.join(differ)}; run it without --check", file=sys.stderr)
    return bool(differ)


if __name__ == "__main__":
    sys.exit(main())
