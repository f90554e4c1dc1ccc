"""`python -m harness.report`: read records, write a report."""

import argparse
import sys
from pathlib import Path

from harness.errors import HarnessError, ResultError
from harness.report import sections
from harness.report.divergence import answer_changes, divergences
from harness.report.engines import engine_runs
from harness.report.markdown import render
from harness.report.matmul import matmul_errors
from harness.report.noise import floor_of, noise_floor
from harness.report.parity import parities
from harness.report.quality import quality_against_bits
from harness.report.study import Group, comparable, finished
from harness.report.throughput import throughput
from harness.report.unfinished import left_out, not_ok, not_supported
from harness.results.store import ResultStore, Stored, write_atomic

INTRODUCTION = """\
A headline stands with its n and 95 % interval: by document for figures over text, Wilson's over questions for accuracy, Student's t
over draws for matrix products. A difference is taken only between runs of one protocol, on the same items, paired; it
has an interval, of accuracies McNemar's exact p too, and a verdict: "cannot tell" where the interval holds 0 or p is 0.05 or more.
Each is by itself: of twenty recipes without any effect one is expected to miss. A column without an interval or a p beside it (percentiles,
agreement, values by subject or group size, counts, bits and bytes) describes these items and claims nothing about others.
pp are percentage points; % is a share, or a relative change where the column says so. How intervals are made: docs/evaluation.md."""


def main() -> None:
    """Write the report that the command line asks for; exit with 1 and one line if that cannot be done."""
    parser = argparse.ArgumentParser(
        prog="python -m harness.report", description="Turn the records of a folder into a report."
    )
    parser.add_argument("results", nargs="?", default="results", help="folder with records")
    parser.add_argument("--out", default="reports", help="folder for the report")
    parser.add_argument("--name", help="name of the report; the folder's own if left out")
    arguments = parser.parse_args()
    try:
        path = write(Path(arguments.results), Path(arguments.out), arguments.name)
    except HarnessError as reason:
        sys.stderr.write(f"{reason}\n")
        sys.exit(1)
    sys.stdout.write(f"report: {path}\n")


def write(results: Path, out: Path, name: str | None) -> Path:
    """Write the report of a folder of records and return its path.

    Raises:
        ResultError: There is no record with a result, or the report cannot be written.
    """
    stored, problems = ResultStore(root=results).load()
    groups = comparable(stored)
    if not finished(stored):
        raise ResultError(
            f"the folder must hold records with a result as <task>/<model>/*.json, got none in {results}; "
            "run `python -m harness` first, or name another folder"
        )
    title = name or results.resolve().name
    path = out / f"{title}.md"
    found = collect(groups, problems, stored, path)
    text = render(f"Report: {title}", INTRODUCTION, found)
    write_atomic(path, text.encode())
    return path


def collect(
    groups: list[Group], problems: list[str], stored: list[Stored], path: Path
) -> list[sections.Section]:
    """Return every section that has something to say; pictures are written beside `path`."""
    found: list[sections.Section | None] = []
    floors = [floor_of(group, groups) for group in groups]
    for number, (group, floor) in enumerate(zip(groups, floors, strict=True), start=1):
        picture = path.with_name(f"{path.stem}-throughput-{number}.png")
        own = (
            divergences(group, floor),
            answer_changes(group),
            noise_floor(group),
            parities(group),
            throughput(group, groups, stored, picture),
        )
        found += (
            own
            if any(own)
            else (sections.ranking(group, floor and floor.line(), floor.least if floor else 0.0),)
        )
    for number, (group, floor) in enumerate(zip(groups, floors, strict=True), start=1):
        picture = path.with_name(f"{path.stem}-quality-{number}.png")
        found.append(quality_against_bits(group, picture, floor))
    found += [sections.formats_by_granularity(group) for group in groups]
    found += [sections.group_size_trend(group) for group in groups]
    found += sections.direct_against_generate(groups)
    found += sections.sizes(groups)
    found += [sections.subjects(group) for group in groups]
    found += matmul_errors(stored)
    found += engine_runs(stored)
    found += [left_out(stored), not_supported(stored), not_ok(stored, problems)]
    found.append(sections.warnings(groups))
    if groups:
        found.append(sections.records(groups))
    return [section for section in found if section is not None]


if __name__ == "__main__":
    main()
