"""`python -m harness.results.schema`: print the JSON Schema of `docs/record.schema.json`."""

import json
import sys

from harness.results.record import RunRecord


def schema_text() -> str:
    """Return the JSON Schema of `RunRecord`, as text."""
    return json.dumps(RunRecord.model_json_schema(mode="serialization"), indent=1) + "\n"


if __name__ == "__main__":
    sys.stdout.write(schema_text())
