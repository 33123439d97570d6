"""Reads a log in its order: python3 audit.py URL SEED_FILE STREAM [FIRST]; a line of JSON for each event"""
import asyncio, base64, hashlib, json, sys, urllib.parse
import nats
from nats.js.api import ConsumerConfig, DeliverPolicy

heads = {}  # the sequence and the hash of the last event of each source and epoch

def chain(ce, subject, body):
    if "farseq" not in ce:
        return "unchained"
    texts = ["farside chain v1", ce["source"], ce["id"], ce["type"], subject, ce.get("time", ""), ce["farepoch"], ce["farseq"]]
    fields = [text.encode() for text in texts] + [bytes.fromhex(ce["farprev"]), hashlib.sha256(body).digest()]
    digest = hashlib.sha256(b"".join(len(field).to_bytes(4, "big") + field for field in fields)).hexdigest()
    key, seq = (ce["source"], ce["farepoch"]), int(ce["farseq"])
    head, heads[key] = heads.get(key, (0, "0" * 64) if seq == 1 else None), (seq, digest)
    return "ok" if head in [(seq - 1, ce["farprev"]), (seq, digest)] else "broken" if head else "first"

def event(msg):
    _, _, site, _, cluster, stem, _, what = msg.subject.split(".")
    head = {name.lower(): urllib.parse.unquote(value) for name, value in (msg.headers or {}).items()}
    ce, data = {name[3:]: value for name, value in head.items() if name.startswith("ce-")}, json.loads(msg.data)
    if head.get("content-type", "").lower().startswith("application/cloudevents") or "specversion" not in ce:
        ce = data if {"specversion", "id", "source", "type"} <= data.keys() else {}
        data = json.loads(base64.b64decode(ce["data_base64"])) if "data_base64" in ce else ce.get("data", data)
    at = f"{msg.metadata.stream}:{msg.metadata.sequence.stream}"
    plain = {"time": msg.metadata.timestamp.isoformat(), "source": f"/{site}/{cluster}/{stem}/plain", "id": at, "type": f"{stem}.{what}"}
    return {name: ce.get(name, value) for name, value in plain.items()} | {"chain": chain(ce, msg.subject, msg.data), "data": data}

async def main(url, seed_file, stream, first="1"):
    bus = await nats.connect(url, nkeys_seed=seed_file, connect_timeout=10, allow_reconnect=False)
    start = ConsumerConfig(deliver_policy=DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=int(first))
    log = await bus.jetstream().subscribe("far.v1.*.evt.>", stream=stream, ordered_consumer=True, config=start)
    left, broken = (await bus.jsm().stream_info(stream)).state.last_seq >= int(first), False
    while left:
        msg = await log.next_msg(timeout=10)
        try:
            found = event(msg)
        except Exception as error:  # a dead letter
            found = {"error": repr(error)}
        print(json.dumps({"seq": msg.metadata.sequence.stream, "subject": msg.subject} | found))
        left, broken = msg.metadata.num_pending, broken or found.get("chain") == "broken"
    await bus.close()
    return broken

sys.exit(asyncio.run(main(*sys.argv[1:])))
