#!/usr/bin/env python3
"""nats-py into SQLite: what a user would write to keep the state of every resource of a stream.

One pull consumer, large batches, one transaction for each: the rows (upserted by their key) and the position. So a
program that is killed goes on behind what it stored. The next batch is fetched while one is stored.
"""

import asyncio
import json
import sqlite3

import nats
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from told import Stopwatch, count, given

# Each batch is one commit, and a commit waits for the disk.
BATCH = 5_000

TABLES = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
CREATE TABLE pool (kind TEXT, id TEXT, revision TEXT, body BLOB, PRIMARY KEY (kind, id)) WITHOUT ROWID;
CREATE TABLE position (stream TEXT PRIMARY KEY, seq INTEGER);
"""
UPSERT = """
INSERT INTO pool VALUES (?, ?, ?, ?)
ON CONFLICT (kind, id) DO UPDATE SET revision = excluded.revision, body = excluded.body
"""


def store(database, stream, bodies, seq):
    """One transaction."""
    rows = []
    for body in bodies:
        resource = json.loads(body)
        rows.append((resource["kind"], resource["id"], resource["revision"], body))
    with database:
        database.executemany(UPSERT, rows)
        database.execute("INSERT OR REPLACE INTO position VALUES (?, ?)", (stream, seq))


async def copy(arguments, database):
    """Reads on behind the position until everything is stored; answers how many messages that were."""
    client = await nats.connect(arguments.url)
    position = database.execute("SELECT seq FROM position WHERE stream = ?", (arguments.stream,)).fetchone()
    behind = position[0] if position else 0
    config = ConsumerConfig(
        deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
        opt_start_seq=behind + 1,
        # The position is the acknowledgement.
        ack_policy=AckPolicy.NONE,
        inactive_threshold=60.0,
    )
    jetstream = client.jetstream()
    consumer = await jetstream.pull_subscribe(arguments.subject, stream=arguments.stream, config=config)
    done, storing = 0, None
    while done < arguments.events:
        messages = await consumer.fetch(min(BATCH, arguments.events - done), timeout=10)
        # Delivered in order, unless one is lost on the way: then all of it is read again.
        last = messages[-1].metadata.sequence.stream
        if last != behind + len(messages):
            raise SystemExit(f"{behind + 1} to {last} are not {len(messages)} messages")
        if storing:
            await storing
        bodies = [message.data for message in messages]
        storing = asyncio.create_task(asyncio.to_thread(store, database, arguments.stream, bodies, last))
        done, behind = done + len(messages), last
    await storing
    return done, client


async def main():
    arguments = given(__doc__)
    database = sqlite3.connect(arguments.directory / "pool.sqlite", check_same_thread=False)
    database.executescript(TABLES)
    stopwatch = Stopwatch()
    done, client = await copy(arguments, database)
    stopwatch.tell(done, lambda: count(database))
    await client.close()


if __name__ == "__main__":
    asyncio.run(main())
