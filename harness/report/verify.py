"""Verify a report: write it anew from its records, and compare line by line."""

import difflib
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from harness.errors import HarnessError, ResultError
from harness.output import scratch
from harness.output.stdout import printing
from harness.report import claims_files
from harness.report.compose import compose, margin_of, records_of
from harness.report.html.library import library_of
from harness.report.html.page import render

MOST_LINES = 20
"""So many lines of differences are shown."""
MOST_LETTERS = 1000
"""So much of such a line is shown: the data of a page are one line."""


def differences(path: Path) -> list[str]:
    """Return the lines in which a report, its JSON, CSV or page differs from its records.

    A line of the file begins with `-`, what the records say in its place with `+`. Pictures are
    drawn from the same claims; they are not compared, nor are the scripts that draw them in a page,
    which depend on the version of vl-convert.

    Raises:
        ResultError: The file is no report, or its records cannot be used.
    """
    written = _read(path, "a report")
    results = records_of(written, path.parent)
    with scratch.folder_in(Path(tempfile.gettempdir())) as folder:
        composed = compose(results, path, folder, margin_of(written))
    found = _differences(written, composed.text)
    for target, content in claims_files.contents(path, composed.claims).items():
        if target.exists():
            found += _differences(_read(target, "the claims of a report"), content)
        else:
            found.append(f"+{target.name}, which is not there; write the report anew")
    page = path.with_suffix(".html")
    if page.exists():
        shown = _read(page, "the page of a report").replace("\r\n", "\n")
        found += _differences(shown, render(composed.content, library_of(shown)))
    return found


def _differences(written: str, composed: str) -> list[str]:
    compared = [*difflib.unified_diff(_lines(written), _lines(composed), n=0)]
    # Two lines of names come first. Lines of the files follow a `-` or a `+`.
    return [line for line in compared[2:] if not line.startswith("@@")]


def _lines(text: str) -> list[str]:
    """Return the lines of a text; a checkout on Windows may have changed the ends of all.

    `splitlines` takes further characters for line ends, and hides whether there is a last one.
    """
    return text.replace("\r\n", "\n").split("\n")


def _read(path: Path, what: str) -> str:
    try:
        return path.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as reason:
        # The text of an OSError would repeat the path.
        why = getattr(reason, "strerror", None) or str(reason)
        raise ResultError(f"{path} must be {what}, got: {why}") from reason


def verify(paths: Sequence[Path]) -> bool:
    """Verify reports, print what differs, and return whether all are right."""
    are_right = True
    for path in paths:
        try:
            found = differences(path)
        except HarnessError as reason:
            are_right = False
            sys.stderr.write(f"{reason}\n")
            continue
        are_right = are_right and not found
        with printing():
            verdict = "differs from its records" if found else "says what its records say"
            sys.stdout.write(f"{path}: {verdict}\n")
            sys.stdout.writelines(f"  {line[:MOST_LETTERS]}\n" for line in found[:MOST_LINES])
            if len(found) > MOST_LINES:
                sys.stdout.write(f"  and {len(found) - MOST_LINES} further lines\n")
    return are_right
