import asyncio, json, nats, sys

async def main():
    async with await nats.connect(sys.argv[1]) as bus:
        subject = "far.v1.local.evt.dc1.resource.VM=2Fdb-2.changed"
        data = {"kind": "VM", "id": "db-2", "revision": "8", "state": {"cpus": 8}}
        event = {"specversion": "1.0", "id": "a-17", "source": "/local/dc1/resource/cmdb",
                 "type": "resource.changed", "time": "2026-11-22T04:31:48.123Z", "data": data}
        ack = await bus.jetstream().publish(subject, json.dumps(event).encode(), timeout=30)
        print(ack.stream, ack.seq)

asyncio.run(main())
