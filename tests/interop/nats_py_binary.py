import asyncio, json, nats, sys

async def main():
    async with await nats.connect(sys.argv[1]) as bus:
        subject = "far.v1.local.evt.dc1.resource.VM=2Fdb-3.changed"
        data = {"kind": "VM", "id": "db-3", "revision": "9", "state": {"cpus": 16}}
        headers = {"ce-specversion": "1.0", "ce-id": "a-18", "ce-source": "/local/dc1/resource/cmdb",
                   "ce-type": "resource.changed", "content-type": "application/json", "Nats-Msg-Id": "dc1/a-18"}
        ack = await bus.jetstream().publish(subject, json.dumps(data).encode(), headers=headers, timeout=30)
        print(ack.stream, ack.seq)

asyncio.run(main())
