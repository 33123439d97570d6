import asyncio, json, nats, sys

async def main():
    async with await nats.connect(sys.argv[1]) as bus:
        subject = "far.v1.local.evt.dc1.resource.VM=2Fdb-1.changed"
        data = {"kind": "VM", "id": "db-1", "revision": "7", "state": {"cpus": 4}, "labels": {"tier": "db"}}
        ack = await bus.jetstream().publish(subject, json.dumps(data).encode(), timeout=30)
        print(ack.stream, ack.seq)

asyncio.run(main())
