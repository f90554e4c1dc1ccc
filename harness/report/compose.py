"""The text of a report, and the pictures that it shows."""

import os
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, unquote

from harness.claims.flat import Cell, flat
from harness.claims.grouping import finished
from harness.claims.margins import in_one_line, names_of, read_margins
from harness.claims.measure import measure_of
from harness.errors import ConfigError, ResultError
from harness.report.contents import answered_of, collect
from harness.report.html.page import Content
from harness.report.html.runs import behind
from harness.report.intake import nothing_found, take_in
from harness.report.markdown import render
from harness.report.sections.answer import NAME
from harness.report.sections.left_out import shortened

MARK = "Written by python -m harness.report, which overwrites changes that are made by hand."
RECORDS = "Records: "
"""What stands before the folder of the records, relative to the folder of the report."""
MARGIN = "Margin: "
"""What stands before the margin that the report was asked for."""


class Composed(NamedTuple):
    """A report that is not written yet."""

    text: str
    claims: list[dict[str, Cell]]
    """The claims, one flat row each; see `harness.claims.flat`."""
    problems: list[str]
    """A line for each file that it lacks."""
    content: Content
    """What a page of the report shows."""
    answer: list[str]
    """The lines of its first section, for a terminal."""


def compose(results: Path, path: Path, pictures: Path, margin: str = "") -> Composed:
    """Return the report of a folder of records, and draw its pictures.

    Args:
        results: The folder of the records.
        path: Where the report will lie.
        pictures: Folder for the pictures.
        margin: Largest differences that do not matter, such as `accuracy=1pp,perplexity=0.5%`.

    Raises:
        ConfigError: The margin cannot be read, or is of no measure of these runs.
        ResultError: There is no record with a result.
    """
    margin = in_one_line(margin)
    margins = read_margins(margin)
    stored, problems = take_in(results)
    if not finished(stored):
        lines = "".join(f"\n{line}" for line in shortened(problems))
        raise ResultError(f"{nothing_found(results)}{lines}")
    answered = answered_of(stored, margins)
    measures = {measure_of(each.group.task.name) for each in answered}
    if margins and not margins.keys() & measures:
        raise ConfigError(
            f"--margin must name a measure of these runs ({names_of(measures)}), got {margin}"
        )
    found = collect(stored, answered, problems, pictures / path.name)
    asked = f"\n{MARGIN}{margin}" if margin else ""
    head = f"{MARK}\n{RECORDS}{_link(results, path.parent)}{asked}"
    title = f"Report: {path.stem}"
    runs = behind(stored, {run for section in found for run in section.runs})
    content = Content(title=title, head=head, sections=found, runs=runs)
    answer = [line for each in found if each.name == NAME for line in each.text.splitlines()]
    return Composed(render(title, head, found), flat(answered), problems, content, answer)


def margin_of(text: str) -> str:
    """Return the margin that a report was written with, as it was typed; empty without one."""
    named = (line for line in _head(text) if line.startswith(MARGIN))
    return next(named, MARGIN).removeprefix(MARGIN)


def records_of(text: str, folder: Path) -> Path:
    """Return the folder of the records that a report was written from.

    Args:
        text: The report.
        folder: The folder that it lies in.

    Raises:
        ResultError: The report does not name the folder.
    """
    named = (line for line in _head(text) if line.startswith(RECORDS))
    line = next(named, None)
    if line is None:
        raise ResultError(
            f"a report must have a line that begins with {RECORDS!r} to be verified; write it anew"
        )
    return folder / unquote(line.removeprefix(RECORDS))


def _head(text: str) -> list[str]:
    """Return the lines before the first section; below, a recipe may be named like one of them."""
    return text.partition("\n## ")[0].splitlines()


def _link(results: Path, folder: Path) -> str:
    """Return a folder relative to another, as a Markdown address that needs no escaping."""
    return quote(Path(os.path.relpath(results.resolve(), folder.resolve())).as_posix())
