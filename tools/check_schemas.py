#!/usr/bin/env python3
"""Validate every golden sample of the contract against its JSON Schema, with Python's jsonschema; a sample
without any one of what its schema requires must be refused."""

import json
import sys
from pathlib import Path

ROOM = Path(__file__).resolve().parent.parent / "bus-schema"


def main():
    try:
        from jsonschema import Draft202012Validator
    except ImportError:
        print("check_schemas.py: jsonschema is not installed: python3 -m pip install jsonschema", file=sys.stderr)
        return 1
    failed = count = refused = 0
    for schema_path in sorted((ROOM / "schema").rglob("*.json")):
        schema = json.loads(schema_path.read_text(encoding="utf-8"))
        Draft202012Validator.check_schema(schema)
        name = schema_path.relative_to(ROOM / "schema")
        sample = json.loads((ROOM / "golden" / name).read_text(encoding="utf-8"))
        count += 1
        for error in Draft202012Validator(schema).iter_errors(sample):
            print(f"golden/{name}: {error.json_path}: {error.message}", file=sys.stderr)
            failed += 1
        for missing in schema.get("required", []):
            if Draft202012Validator(schema).is_valid({key: sample[key] for key in sample if key != missing}):
                print(f"golden/{name} is taken without {missing}", file=sys.stderr)
                failed += 1
            else:
                refused += 1
    print(f"{count} samples checked, {refused} without something required refused, {failed} faults")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
