"""Compare two folders of records sample by sample: every score of every task and recipe in both.

    python scripts/compare_records.py OLD NEW

Prints one line of JSON a pair: samples, equal answers, and the largest difference of each score.
Exits with 1 if a pair has different samples, or if there is no pair.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from harness.claims.grouping import finished
from harness.results.store import ResultStore, Stored, read_samples

Key = tuple[str, str, str]


def by_key(folder: Path) -> dict[Key, Stored]:
    """Return the runs of a folder that ended well, by task, recipe and model."""
    stored, _ = ResultStore(root=folder).load()
    return {
        (r.task.name, r.quant.name, r.model.name): item
        for item in finished(stored)
        if (r := item.record).task and r.quant and r.model
    }


def compare(old: Stored, new: Stored) -> dict[str, Any]:
    """Return what differs between the items of two runs."""
    a, b = (read_samples(item).set_index("id") for item in (old, new))
    found: dict[str, Any] = {"same_items": set(a.index) == set(b.index), "items": len(a)}
    found["headline"] = [item.record.metrics[0].value for item in (old, new)]
    if not found["same_items"]:
        return found
    b = b.loc[a.index]
    if "answer" in a and "answer" in b:
        found["equal_answers"] = int((a["answer"] == b["answer"]).sum())
    found["largest_difference"] = {
        column: largest(a[column], b[column])
        for column in a.columns.intersection(b.columns)
        if column not in ("answer", "cluster")
    }
    return found


def largest(a: pd.Series, b: pd.Series) -> float:
    """Return the largest difference of a column, which may hold lists."""
    pairs = zip(a, b, strict=True)
    return max(float(np.abs(np.asarray(x) - np.asarray(y)).max()) for x, y in pairs)


def main() -> None:
    """Compare the folders that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    arguments = parser.parse_args()
    old, new = by_key(arguments.old), by_key(arguments.new)
    shared = [key for key in old if key in new]
    ok = bool(shared)
    for key in shared:
        found = compare(old[key], new[key])
        ok &= found["same_items"]
        sys.stdout.write(json.dumps({"run": " ".join(key), **found}) + "\n")
    sys.exit(0 if ok else 1)


if __name__ == "__main__":
    main()
