"""Publishes one event: python3 publish.py URL plain|structured|binary SUBJECT ID < data.json"""
import asyncio, json, sys
import nats

async def main(url, form, subject, id):
    data = sys.stdin.buffer.read()
    _, _, site, _, cluster, stem, _, event = subject.split(".")
    about = {"specversion": "1.0", "id": id, "source": f"/{site}/{cluster}/{stem}/cmdb", "type": f"{stem}.{event}"}
    headers = {"Nats-Msg-Id": f"{cluster}/{id}"}  # the log stores what is repeated under it once
    if form == "structured":
        headers["content-type"] = "application/cloudevents+json"
        data = json.dumps(about | {"data": json.loads(data)}).encode()
    elif form == "binary":
        headers |= {"content-type": "application/json"} | {f"ce-{name}": value for name, value in about.items()}
    elif form != "plain":
        raise ValueError(f"{form} is no form")
    bus = await nats.connect(url, connect_timeout=10, allow_reconnect=False)
    try:
        ack = await bus.jetstream().publish(subject, data, headers=headers, timeout=10)
        print(f"{ack.stream}:{ack.seq}{' duplicate' if ack.duplicate else ''}")
    finally:
        await bus.close()

try:
    asyncio.run(main(*sys.argv[1:]))
except Exception as error:
    sys.exit(f"not published: {error!r}")
