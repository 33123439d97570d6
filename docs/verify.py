#!/usr/bin/env python3
"""Checks evidence that `farside audit export` wrote, without Farside: python3 verify.py FILE --key U...
Needs Python 3.8 and the package `cryptography`. Exit code 0: good, 1: something is wrong, 2: wrong usage.
What the lines are, and what this proves: docs/audit.md."""
import argparse, base64, hashlib, json, sys, urllib.parse
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

ZERO, LINE_MAX, found = bytes(32), 16 << 20, {"faults": 0, "line": 0}
def fault(text):
    found["faults"] += 1
    if found["faults"] <= 100:
        print(f"WRONG: line {found['line']}: {text}")
def fields(domain, *parts):
    """SHA-256 over fields, each preceded by its length in bytes as a 32-bit big-endian number."""
    parts = [part.encode() if isinstance(part, str) else part for part in (domain, *parts)]
    return hashlib.sha256(b"".join(len(part).to_bytes(4, "big") + part for part in parts)).digest()
def signed(value):
    """The RFC 8785 text of what is signed: these objects hold no fractions, and names in ASCII only."""
    rest = {name: value[name] for name in value if name != "signature"}
    return json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
def read(body):
    try:
        value = json.loads(body)
        return value if value.get("specversion") == "1.0" else {}
    except (ValueError, AttributeError):
        return {}  # no event in structured form
def verified(key, text, signature, what):
    try:
        raw = base64.b32decode(key + "=" * (-len(key) % 8))  # an nkey: its kind (U), 32 bytes, a CRC of two
        Ed25519PublicKey.from_public_bytes(raw[1:33] * (raw[0] == 20 << 3)).verify(base64.b64decode(signature, validate=True), text)
        return True
    except (InvalidSignature, ValueError):
        fault(f"{what}: its signature is not one of the key {key}")

class File:
    def __init__(self, key):
        self.key, self.head, self.keys, self.last, self.sha = key, None, [], None, hashlib.sha256()
        self.count, self.marks, self.chains, self.missing, self.ended = 0, [], {}, {}, False
    def header(self, head):
        self.next, self.to, self.running = int(head["from"]), int(head["to"]), bytes.fromhex(head["running"])
        self.head, self.signed = head, self.next - 1
        if head["format"] != "farside evidence v1":
            fault(f"the form {head['format']!r} is unknown")
        if head["checkpoint"] == "0" and (self.running != ZERO or self.next != 1):
            fault("it begins in the middle of the log and names no checkpoint whose mark is there")
    def rotation(self, it):
        before, known = it.get("previous"), self.keys[-1] if self.keys else None
        text = fields("farside signing key v1", it["target"], before or "", it["key"])
        if verified(before or it["key"], text, it["signature"], f"the rotation to the key {it['key']}"):
            if before != known or it["target"] != self.head["target"]:
                return fault(f"the key {it['key']} is introduced by {before}, not by the target's key {known}")
            self.keys.append(it["key"])
    def checkpoint(self, it):
        number, head = int(it["number"]), self.head
        if not verified(it["key"], signed(it), it["signature"], f"checkpoint {number}"):
            return
        if it["key"] not in self.keys[-1:] or it["target"] != head["target"]:
            return fault(f"checkpoint {number} is signed by {it['key']} for {it['target']}, not by the target's key")
        if self.last and number <= self.last[0]:
            return fault(f"checkpoint {number} stands behind checkpoint {self.last[0]}: an older one was put in")
        if self.last and number > self.last[0] + 1:
            fault(f"checkpoint {self.last[0] + 1} is missing before checkpoint {number}")
        elif self.last and it["previous"] != self.last[1]:
            fault(f"checkpoint {number} follows another one than {self.last[0]}: it is of another history")
        self.last = (number, hashlib.sha256(signed(it)).hexdigest())
        self.marks.append(number)
        is_it = lambda mark: all(mark[name] == head[name] for name in ("stream", "created", "incarnation"))
        for mark in filter(is_it, it["logs"]):
            seq, running = int(mark["seq"]), bytes.fromhex(mark["running"])
            if seq + 1 != self.next:
                fault(f"checkpoint {number} signs up to {seq}, but stands behind {self.next - 1}")
            elif running != self.running:
                what = f"{self.signed + 1}-{seq}" if str(number) != head["checkpoint"] else "the header's running hash"
                fault(f"{what} is not what checkpoint {number} signs: something there was changed")
            self.running, self.signed = running, seq
    def absent(self, it, what="the absence of"):
        first, last = int(it["first"]), int(it["last"])
        if first > self.next:
            fault(f"{what} {first} stands where {self.next} should: {self.next}-{first - 1} is missing")
        elif first < self.next:
            fault(f"{what} {first} stands behind {self.next - 1}: it is doubled, or in another's place")
        self.next = max(self.next, last + 1)
    def message(self, it):
        seq, body = int(it["seq"]), base64.b64decode(it["body"], validate=True)
        self.absent({"first": seq, "last": seq}, "message")
        pairs = sorted((name.encode(), value.encode()) for name, value in it["headers"])
        parts = [number.to_bytes(8, "big") for number in (seq, it["stored_at_unix_ms"], len(pairs))]
        parts += [it["subject"], *(part for pair in pairs for part in pair), hashlib.sha256(body).digest()]
        digest = fields("farside message v2", *parts)
        if digest.hex() != it["hash"]:
            fault(f"message {seq} is not what its hash says: its time, subject, headers or body were changed")
        self.running, self.count = fields("farside log v1", self.running, digest), self.count + 1
        self.chain(seq, it["subject"], {name.lower(): value for name, value in it["headers"]}, body)
    def chain(self, seq, subject, headers, body):
        event = {name[3:]: urllib.parse.unquote(headers[name]) for name in headers if name[:3] == "ce-"}
        if "cloudevents" in headers.get("content-type", "").lower() or "specversion" not in event:
            event = read(body)
        of, source = subject.split("."), str(event.get("source")).split("/")
        if len(of) != 8 or len(source) != 5 or "farseq" not in event or source[1:3] != [of[2], of[4]]:
            return  # without a place in a chain, or by somebody who speaks for another cluster
        place, prev = int(event["farseq"]), bytes.fromhex(event["farprev"])
        texts = [event["source"], event["id"], event["type"], subject, event.get("time", ""), event["farepoch"]]
        digest = fields("farside chain v1", *texts, str(place), prev, hashlib.sha256(body).digest())
        chain = (event["source"], event["farepoch"])
        last, known = self.chains.get(chain, (0, ZERO) if self.head["from"] == "1" else (place - 1, prev))
        if place <= last:  # it was sent again
            return self.missing.get(chain, set()).discard(place)
        if place > last + 1:
            self.missing.setdefault(chain, set()).update(range(last + 1, min(place, last + 1_000_000)))
        elif prev != known:
            fault(f"message {seq}: event {place} of {chain[0]} does not follow the one before it in its chain")
        self.chains[chain] = (place, digest)
    def trailer(self, it):
        self.ended = True
        verified(it["key"], signed(it), it["signature"], "the trailer")
        trusted = self.keys[self.keys.index(self.key):] if self.key in self.keys else [self.key]
        if it["key"] not in trusted:
            fault(f"it is signed by the key {it['key']}, which is neither {self.key} nor one that it named")
        end, count, running, sha = str(self.next - 1), str(self.count), self.running.hex(), self.sha.hexdigest()
        for name, has in (("from", self.head["from"]), ("to", self.head["to"]), ("to", end), ("count", count),
                          ("running", running), ("sha256", sha)):
            if it[name] != has:
                fault(f"the trailer says {name} {it[name]}, but the file has {has}")
arguments = argparse.ArgumentParser(description=__doc__)
arguments.add_argument("file", type=argparse.FileType("rb"))
arguments.add_argument("--key", required=True, help="the public key that is trusted, U...")
given, kinds = arguments.parse_args(), ("header", "rotation", "checkpoint", "message", "absent", "trailer")
file = File(given.key)
for line in iter(lambda: given.file.readline(LINE_MAX), b""):
    found["line"] += 1
    try:
        ((kind, value),) = json.loads(line).items()
        if line[-1:] != b"\n" or kind not in kinds or file.ended or (kind == "header") != (file.head is None):
            raise ValueError("cut off, behind the trailer, before the header, a second one, or of an unknown kind")
        getattr(file, kind)(value)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        fault(f"it is no line of evidence in its place: {error!r}")
    file.sha.update(line)
if not file.ended:
    fault("the file ends without its trailer: it was cut off")
if file.head and file.head["checkpoint"] not in ("0", *map(str, file.marks[:1])):
    fault(f"checkpoint {file.head['checkpoint']}, behind which it begins, is not in it or not good")
for (source, _), gone in file.missing.items():
    if gone and file.head["from"] == "1":  # a part may begin with copies of what was lost before it
        fault(f"events {min(gone)}-{max(gone)} of {source} are missing in its chain")
if file.head and file.signed < file.to:
    print(f"note: {file.signed + 1}-{file.to} is signed by the trailer only, no checkpoint covers it")
print(f"{found['faults']} faults in {file.count} messages and {len(file.marks)} checkpoints")
sys.exit(min(found["faults"], 1))
