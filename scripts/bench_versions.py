"""The code of today beside an earlier commit: the same task in child processes, taking turns.

Each round runs both in `bench_child.py`, the earlier code first in every other round, so that a
drift of the machine favours neither. Times are medians over rounds.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
CHILD = Path(__file__).with_name("bench_child.py")
Json = dict[str, Any]


@contextmanager
def tree_of(version: str) -> Iterator[Path]:
    """Context manager: a folder with the code of a commit, or the folder that `version` names."""
    if Path(version).is_dir():
        yield Path(version).resolve()
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "old")
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--detach", str(folder), version], check=True)
        try:
            yield folder
        finally:
            subprocess.run([*git, "remove", "--force", str(folder)], check=True)


def beside(version: str, part: str, options: Sequence[str], rounds: int) -> Json:
    """Return times and differences of a part in the code of today and of an earlier commit."""
    with tree_of(version) as old:
        runs: dict[str, list[Json]] = {"old": [], "new": []}
        for number in range(rounds):
            order = [("old", old), ("new", ROOT)]
            for name, folder in order if number % 2 == 0 else order[::-1]:
                runs[name].append(_run(folder, part, options))
    first, last = runs["old"][0], runs["new"][0]
    medians = {name: statistics.median(run["seconds"] for run in runs[name]) for name in runs}
    gaps = [abs(value - last["scores"][key]) for key, value in first["scores"].items()]
    return {
        "old": version,
        "seconds": {name: [run["seconds"] for run in listed] for name, listed in runs.items()},
        "median_s": medians,
        "speedup": medians["old"] / medians["new"],
        "samples": len(first["texts"]),
        "largest_difference_of_a_score": max(gaps),
        "different_answers": sum(first["texts"][i] != last["texts"][i] for i in first["texts"]),
    }


def _run(folder: Path, part: str, options: Sequence[str]) -> Json:
    """Run a part with the code of a folder."""
    command = [sys.executable, str(CHILD), part, *options]
    environment = os.environ | {"PYTHONPATH": str(folder)}
    ended = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True)
    found: Json = json.loads(ended.stdout)
    return found
