"""`python -m harness.report`: turn a folder of records into a report."""

import argparse
import sys
from pathlib import Path

from harness import __version__, signals

if __name__ == "__main__":
    signals.leave_at_once()  # the imports below take a while

from harness.claims.margins import HELP
from harness.errors import HarnessError
from harness.messages import program, visible
from harness.output import picture, place, scratch
from harness.output.atomic import write_atomic
from harness.output.names import file_stem, local_path
from harness.output.redacted_streams import redacted_streams
from harness.output.stdout import printing
from harness.report import claims_files
from harness.report.compose import MARK, Composed, compose
from harness.report.html.library import vega
from harness.report.html.page import render
from harness.report.sections.left_out import shortened
from harness.report.verify import verify

VERIFY = "verify"
"""The word that asks to verify reports instead."""
FIRST_WORDS = "\n\nEvery value stands with its n and 95 % interval"
"""What follows the title in reports from before there was a mark."""
PAGE = ".html"
HEAD = 2000
"""Title and mark lie within so many bytes of the beginning."""
SPARE = len("-throughput-999.png")
"""The longest text that is appended to the name of a report [byte]."""


def main() -> None:
    """Write the report of the command line; exit with 1 if it cannot be written or lacks a file."""
    if sys.argv[1:2] == [VERIFY]:
        asked = verify_parser().parse_args(sys.argv[2:])
        sys.exit(0 if verify([Path(file) for file in asked.reports]) else 1)
    arguments = parser().parse_args()
    with signals.stoppable("no report was written"):
        try:
            out = local_path(arguments.out, "--out")
            path, composed = _write(
                Path(arguments.results),
                out,
                arguments.name,
                margin=arguments.margin,
                force=arguments.force,
                html=arguments.html,
            )
        except (HarnessError, OSError) as reason:
            if signals.received():
                raise
            sys.stderr.write(f"{reason}\n")
            sys.exit(1)
    with printing():
        sys.stdout.writelines(f"{line}\n" for line in composed.answer)
        sys.stdout.write(f"report: {path}\n")
        claims = claims_files.contents(path, [])
        sys.stdout.write(f"claims: {', '.join(map(str, claims))}\n")
        if arguments.html:
            sys.stdout.write(f"page: {path.with_suffix(PAGE)}\n")
    for line in shortened(composed.problems):
        sys.stderr.write(f"left out: {visible(line)}\n")
    if composed.problems:
        sys.exit(1)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    found = argparse.ArgumentParser(
        prog=program("harness.report"),
        description="Turn the records of a folder into a report.",
        epilog=f"`{program('harness.report')} {VERIFY} FILE` verifies a report. "
        "The exit code is 0 if every file of the folder could be used, else 1: the report "
        "is written all the same, and its first section lists what is missing.",
    )
    found.add_argument("--version", action="version", version=f"quant-harness {__version__}")
    found.add_argument("results", nargs="?", default="results", help="folder with records")
    found.add_argument("--out", default="reports", help="folder for the report")
    found.add_argument("--name", help="name of the report; the folder's own if left out")
    found.add_argument("--margin", default="", help=HELP)
    found.add_argument(
        "--html",
        action="store_true",
        help="also write NAME.html: the report as one page that loads nothing, with tables to "
        "sort and filter, the command behind each row, and pictures",
    )
    found.add_argument(
        "--force",
        action="store_true",
        help="overwrite files of the report's names that the harness did not write",
    )
    return found


def verify_parser() -> argparse.ArgumentParser:
    """Return the parser of `report verify`."""
    found = argparse.ArgumentParser(
        prog=f"{program('harness.report')} {VERIFY}",
        description="Write reports anew from their records, and print every line that differs.",
        epilog="The exit code is 0 if no line differs, else 1.",
    )
    found.add_argument("reports", nargs="+", help="Markdown files of reports")
    return found


def write(
    results: Path,
    out: Path,
    name: str | None,
    *,
    margin: str = "",
    force: bool = False,
    html: bool = False,
) -> Path:
    """Write the report of a folder of records, its claims and its pictures; return its path.

    With `html` it is written as a page too.

    A report and pictures that the harness wrote are replaced; other files only with `force`.

    Raises:
        ResultError: There is no record with a result.
        OutputError: The report cannot be written, or would overwrite another file.
    """
    return _write(results, out, name, margin=margin, force=force, html=html)[0]


def _write(
    results: Path, out: Path, name: str | None, *, margin: str, force: bool, html: bool
) -> tuple[Path, Composed]:
    """Write the report; return its path and what was written."""
    title = file_stem(results.resolve().name if name is None else name, "--name", spare=SPARE)
    path = out / f"{title}.md"
    place.folder_to_fill(out, "--out")
    place.file_to_write(path, "--out", "folder", force=force, is_own=is_own)
    place.check_room(path, "--out", "folder", within=out)
    with (
        place.explained(path, "--out", "folder"),
        scratch.made(out),
        scratch.folder_in(out) as folder,
    ):
        # Sections draw their pictures. Check every target before any file is put in place.
        composed = compose(results, path, folder, margin)
        files = [
            *(
                (out / drawn.name, drawn.read_bytes(), picture.is_own)
                for drawn in sorted(folder.iterdir())
            ),
            *(
                (target, found.encode(), claims_files.is_own)
                for target, found in claims_files.contents(path, composed.claims).items()
            ),
        ]
        if html:
            page = render(composed.content, vega())
            files.append((path.with_suffix(PAGE), page.encode(), is_own_page))
        files.append((path, composed.text.encode(), is_own))
        for target, _, owned in files:
            place.file_to_write(target, "--out", "folder", force=force, is_own=owned)
        for target, data, owned in files:
            write_atomic(target, data, "--out", "folder", force=force, is_own=owned)
    return path, composed


def is_own(path: Path) -> bool:
    """Say whether this command wrote a file: it has the mark, or begins like an older report."""
    with path.open("rb") as stream:
        head = stream.read(HEAD).decode(errors="replace")
    return head.startswith("# Report: ") and any(words in head for words in (MARK, FIRST_WORDS))


def is_own_page(path: Path) -> bool:
    """Say whether this command wrote a page."""
    with path.open("rb") as stream:
        head = stream.read(HEAD).decode(errors="replace")
    return head.startswith("<!doctype html>") and MARK in head


if __name__ == "__main__":
    with redacted_streams():
        main()
