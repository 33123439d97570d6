#!/usr/bin/env python3
"""Parse every Python file of the repository; a syntax error fails with its place. Writes nothing."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("tools", "demo", "bench", "bus-schema", "tests", "docs")


def main():
    failed = False
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            try:
                compile(path.read_text(encoding="utf-8"), str(path.relative_to(ROOT)), "exec", dont_inherit=True)
            except SyntaxError as error:
                print(f"{error.filename}:{error.lineno}: {error.msg}", file=sys.stderr)
                failed = True
    return failed


if __name__ == "__main__":
    sys.exit(main())
