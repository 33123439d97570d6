#!/usr/bin/env python3
"""Pathway's JetStream connector into its SQLite output: what a user of Pathway would write for the same table."""

import asyncio
import os
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import nats
import pathway as pw
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from told import Stopwatch, given


CONSUMER = f"pathway-{os.getpid()}"


class Resource(pw.Schema):
    kind: str
    # `id` is a name of Pathway's own.
    name: str
    revision: str
    state: pw.Json


async def make_consumer(arguments):
    """A durable consumer that waits for no acknowledgement: the one that Pathway makes lets fewer messages be under way."""
    client = await nats.connect(arguments.url)
    config = ConsumerConfig(
        durable_name=CONSUMER,
        deliver_policy=DeliverPolicy.ALL,
        ack_policy=AckPolicy.EXPLICIT,
        ack_wait=300,
        max_ack_pending=-1,
    )
    await client.jetstream().add_consumer(arguments.stream, config)
    await client.close()


def pipeline(arguments, file):
    """The latest of every resource, kept up in a table."""
    events = pw.io.nats.read(
        arguments.url,
        arguments.subject,
        schema=Resource,
        format="json",
        json_field_paths={"name": "/id"},
        jetstream_stream_name=arguments.stream,
        durable_consumer_name=CONSUMER,
        autocommit_duration_ms=500,
        max_backlog_size=50_000,
    )
    latest = events.assert_append_only().groupby(pw.this.kind, pw.this.name).reduce(
        pw.this.kind,
        pw.this.name,
        revision=pw.reducers.latest(pw.this.revision),
        state=pw.reducers.latest(pw.this.state),
    )
    pw.io.sqlite.write(
        latest,
        file,
        "pool",
        output_table_type="snapshot",
        primary_key=[latest.kind, latest.name],
        init_mode="create_if_not_exists",
    )


def watch(arguments, file, stopwatch):
    """Ends the program when the table holds what the last events said: a stream has no end that Pathway would see."""
    watcher = Path(__file__).with_name("watch.py")
    counted = subprocess.check_output([sys.executable, watcher, file, str(arguments.revisions)], text=True)
    stopwatch.tell(arguments.events, lambda: map(int, counted.split()))
    os._exit(0)


def main():
    arguments = given(__doc__)
    file = arguments.directory / "pool.sqlite"
    # The database is there, with the tuning that the connector leaves to the user.
    sqlite3.connect(file).execute("PRAGMA journal_mode = WAL")
    asyncio.run(make_consumer(arguments))
    pipeline(arguments, file)
    stopwatch = Stopwatch()
    threading.Thread(target=watch, args=(arguments, file, stopwatch), daemon=True).start()
    pw.run(monitoring_level=pw.MonitoringLevel.NONE)


if __name__ == "__main__":
    main()
