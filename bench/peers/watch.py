#!/usr/bin/env python3
"""Waits until a table holds what is expected, and prints what it counted. A process of its own, because two builds of SQLite
in one process take each other's locks."""

import sqlite3
import sys
import time

from told import count

# A look reads the whole table, so not too often, in seconds.
LOOK_EVERY = 0.25


def main():
    file, expected = sys.argv[1], int(sys.argv[2])
    database = sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=10)
    while True:
        time.sleep(LOOK_EVERY)
        try:
            rows, revisions = count(database)
        except sqlite3.OperationalError:
            # There is no table yet.
            continue
        if revisions == expected:
            print(rows, revisions)
            return


if __name__ == "__main__":
    main()
