"""`python -m harness.report`: read records, write a report."""

import argparse
import sys
from pathlib import Path

from harness.errors import HarnessError, ResultError
from harness.report.contents import collect
from harness.report.intake import nothing_found, take_in
from harness.report.markdown import render
from harness.report.study import finished
from harness.report.unfinished import shortened
from harness.results.store import write_atomic

INTRODUCTION = """\
Every value stands with its n and 95 % interval: Wilson's for accuracy, Student's t over windows for perplexity and over
draws for matrix products. A difference is taken only between runs of one protocol, on the same items. Where it has an
interval, that is of the paired differences; where it has none, read it as a description of these items, not as a claim
about the recipes. pp are percentage points; % is a share, or a relative change where the column says so."""


def main() -> None:
    """Write the report that the command line asks for; exit with 1 if that cannot be done, or if a file had to be left out."""
    parser = argparse.ArgumentParser(
        prog="python -m harness.report",
        description="Turn the records of a folder into a report.",
        epilog="The exit code is 0 if every file of the folder could be used, else 1: the report is written all the same, "
        "and its first section lists what is missing.",
    )
    parser.add_argument("results", nargs="?", default="results", help="folder with records")
    parser.add_argument("--out", default="reports", help="folder for the report")
    parser.add_argument("--name", help="name of the report; the folder's own if left out")
    arguments = parser.parse_args()
    try:
        path, problems = _write(Path(arguments.results), Path(arguments.out), arguments.name)
    except HarnessError as reason:
        sys.stderr.write(f"{reason}\n")
        sys.exit(1)
    sys.stdout.write(f"report: {path}\n")
    for line in shortened(problems):
        sys.stderr.write(f"left out: {line}\n")
    if problems:
        sys.exit(1)


def write(results: Path, out: Path, name: str | None) -> Path:
    """Write the report of a folder of records and return its path.

    Raises:
        ResultError: There is no record with a result, or the report cannot be written.
    """
    return _write(results, out, name)[0]


def _write(results: Path, out: Path, name: str | None) -> tuple[Path, list[str]]:
    """Write the report; return its path and what it lacks."""
    stored, problems = take_in(results)
    if not finished(stored):
        lines = "".join(f"\n{line}" for line in shortened(problems))
        raise ResultError(f"{nothing_found(results)}{lines}")
    title = name or results.resolve().name
    path = out / f"{title}.md"
    text = render(f"Report: {title}", INTRODUCTION, collect(stored, problems, path))
    write_atomic(path, text.encode())
    return path, problems


if __name__ == "__main__":
    main()
