"""`python -m harness.report`: read records, write a report."""

import argparse
import sys
from pathlib import Path

from harness.errors import HarnessError, ResultError
from harness.output import picture, place, scratch
from harness.output.atomic import write_atomic
from harness.output.names import file_stem, local_path
from harness.output.stdout import printing
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
from harness.results.store import ResultStore, Stored

INTRODUCTION = """\
Every value stands with its n and 95 % interval: Wilson's for accuracy, Student's t over windows for perplexity and over
draws for matrix products. A difference is taken only between runs of one protocol, on the same items. Where it has an
interval, that is of the paired differences; where it has none, read it as a description of these items, not as a claim
about the recipes. pp are percentage points; % is a share, or a relative change where the column says so."""

MARK = "Written by python -m harness.report, which overwrites changes that are made by hand."
FIRST_WORDS = "\n\nEvery value stands with its n and 95 % interval"
"""How reports without the mark begin below their title."""
HEAD = 2000
"""Bytes of a file that hold title and mark."""
SPARE = len("-throughput-999.png")
"""Most that is appended to the name of a report."""


def main() -> None:
    """Write the report that the command line asks for; exit with 1 and one line if that cannot be done."""
    parser = argparse.ArgumentParser(
        prog="python -m harness.report", description="Turn the records of a folder into a report."
    )
    parser.add_argument("results", nargs="?", default="results", help="folder with records")
    parser.add_argument("--out", default="reports", help="folder for the report")
    parser.add_argument("--name", help="name of the report; the folder's own if left out")
    parser.add_argument(
        "--force",
        action="store_true",
        help="overwrite files of the report's names that the harness did not write",
    )
    arguments = parser.parse_args()
    try:
        out = local_path(arguments.out, "--out")
        path = write(Path(arguments.results), out, arguments.name, force=arguments.force)
        with printing():
            sys.stdout.write(f"report: {path}\n")
    except (HarnessError, OSError) as reason:
        sys.stderr.write(f"{reason}\n")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; nothing was left behind\n")
        sys.exit(130)


def write(results: Path, out: Path, name: str | None, *, force: bool = False) -> Path:
    """Write the report of a folder of records, its pictures beside it, and return its path.

    A report and pictures that the harness wrote are written again; other files of their names only with `force`.

    Raises:
        ResultError: There is no record with a result.
        OutputError: The report cannot be written, or would overwrite another file.
    """
    title = file_stem(results.resolve().name if name is None else name, "--name", spare=SPARE)
    path = out / f"{title}.md"
    place.folder_to_fill(out, "--out")
    place.file_to_write(path, "--out", "folder", force=force, is_own=is_own)
    stored, problems = ResultStore(root=results).load()
    groups = comparable(stored)
    if not finished(stored):
        raise ResultError(
            f"the folder must hold records with a result as <task>/<model>/*.json, got none in {results}; "
            "run `python -m harness` first, or name another folder"
        )
    place.check_room(path, "--out", "folder", within=out)
    with (
        place.explained(path, "--out", "folder"),
        scratch.made(out),
        scratch.folder_in(out) as folder,
    ):
        # Pictures are drawn while sections are made. Nothing is put in place before all is known to be allowed.
        found = collect(groups, problems, stored, folder / path.name)
        pictures = {out / drawn.name: drawn.read_bytes() for drawn in sorted(folder.iterdir())}
        for target in pictures:
            place.file_to_write(target, "--out", "folder", force=force, is_own=picture.is_own)
        for target, content in pictures.items():
            write_atomic(target, content, "--out", "folder", force=force, is_own=picture.is_own)
        text = render(f"Report: {title}", f"{MARK}\n\n{INTRODUCTION}", found)
        write_atomic(path, text.encode(), "--out", "folder", force=force, is_own=is_own)
    return path


def is_own(path: Path) -> bool:
    """Say whether a file is a report that this command wrote, with its mark or, before there was one, by its first words."""
    with path.open("rb") as stream:
        head = stream.read(HEAD).decode(errors="replace")
    return head.startswith("# Report: ") and any(words in head for words in (MARK, FIRST_WORDS))


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
        found += own if any(own) else (sections.ranking(group, floor and floor.line()),)
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
