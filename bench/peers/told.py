"""What a peer of the race is given, and what it tells of itself when it is done: one line of JSON."""

import argparse
import json
import time
from pathlib import Path


def given(description):
    """The arguments."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--url", required=True)
    parser.add_argument("--stream", required=True)
    parser.add_argument("--subject", required=True)
    parser.add_argument("--events", type=int, required=True, help="how many the stream has")
    parser.add_argument("--revisions", type=int, required=True, help="what the revisions of all rows add up to then")
    parser.add_argument("--directory", type=Path, required=True, help="an empty one")
    return parser.parse_args()


class Stopwatch:
    """From the moment before the program connects."""

    def __init__(self):
        self.started, self.cpu = time.monotonic(), time.process_time()

    def tell(self, events, count):
        """Stops, and prints everything; `count` answers rows and revisions, outside of the time."""
        seconds, cpu = time.monotonic() - self.started, time.process_time() - self.cpu
        rows, revisions = count()
        told = {
            "events": events,
            "seconds": seconds,
            "cpu_seconds": cpu,
            "peak_bytes": peak_bytes(),
            "rows": rows,
            "revisions": revisions,
        }
        print(json.dumps(told), flush=True)


def count(database):
    """How many rows the table has, and what their revisions add up to."""
    rows, revisions = database.execute("SELECT count(*), sum(CAST(revision AS INTEGER)) FROM pool").fetchone()
    return rows, revisions or 0


def peak_bytes():
    """The most memory that was resident, as the kernel tells it; 0 where it does not."""
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            line = next(line for line in status if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    except (OSError, StopIteration):
        return 0
