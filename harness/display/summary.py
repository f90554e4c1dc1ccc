"""The table that is printed after a sweep, and what it is made of: a `JobResult` for each job."""

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.redaction import known_values, redacted


class Ending(StrEnum):
    """How a job ended, in the words of the table."""

    OK = "ok"
    FAILED = "FAILED"
    UNSUPPORTED = "unsupported"
    CANCELLED = "cancelled"
    """A signal stopped it."""
    NOT_RUN = "not run"
    """A signal stopped the sweep before the job began."""


OTHERS = {
    Ending.UNSUPPORTED: "not supported here",
    Ending.CANCELLED: "cancelled",
    Ending.NOT_RUN: "not run",
}
"""Words for the title of the table, which counts jobs that neither ended well nor failed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JobResult:
    """How one job of a sweep, or a single run, ended."""

    overrides: tuple[str, ...]
    """The overrides of the job, as typed."""
    ending: Ending
    text: str
    """The headline of the result, or the error."""
    compared: tuple[str, ...] = ()
    """What the result says beside the baseline on file, in sentences."""
    record: Path | None = None
    """The record on file; None without a result."""
    line: str = ""
    """The line for standard output; empty without a result."""
    trace: str = ""
    """The traceback of an unexpected error."""
    warnings: tuple[str, ...] = ()
    """What a reader must know about the result."""


def print_summary(results: Sequence[JobResult]) -> None:
    """Print a row for each job on standard error; the overrides that not all jobs share name it."""
    shared = set(results[0].overrides).intersection(*(result.overrides for result in results))
    counted = Counter(result.ending for result in results)
    title = f"{len(results)} jobs, {counted[Ending.FAILED] or 'none'} failed"
    for ending, words in OTHERS.items():
        title += f", {counted[ending]} {words}" if counted[ending] else ""
    table = Table(title=title, title_justify="left")
    for column in ("", "job", "result"):
        table.add_column(column, overflow="fold")
    values = known_values()
    for result in results:
        name = " ".join(word for word in result.overrides if word not in shared)
        said = "\n".join((result.text, *result.compared))
        # Mask first: the table may fold a secret over two lines.
        cells = (Text(redacted(text, values)) for text in (name, said))
        table.add_row(result.ending, *cells)
    Console(stderr=True).print(table)


def print_warnings(results: Sequence[JobResult]) -> None:
    """Print each warning once on standard error, with the number of jobs that gave it."""
    counts = Counter(text for result in results for text in dict.fromkeys(result.warnings))
    values = known_values()
    for text, count in counts.items():
        by = f" ({count} of {len(results)} jobs)" if len(results) > 1 else ""
        sys.stderr.write(f"warning{by}: {redacted(text, values)}\n")
