"""What became of the jobs of one command, for the end of its output."""

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.redaction import known_values, redacted


class Ending(StrEnum):
    """How a job ended, as the summary spells it."""

    OK = "ok"
    FAILED = "FAILED"
    UNSUPPORTED = "unsupported"
    CANCELLED = "cancelled"
    """A signal stopped it."""
    NOT_RUN = "not run"
    """A signal stopped the sweep before its turn."""


OTHERS = {
    Ending.UNSUPPORTED: "not supported here",
    Ending.CANCELLED: "cancelled",
    Ending.NOT_RUN: "not run",
}
"""How the title of a summary counts jobs that neither ended well nor failed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JobResult:
    """What one job of a sweep, or a single run, has to say."""

    overrides: tuple[str, ...]
    """What the job was asked for."""
    ending: Ending
    text: str
    """Its headline, or its error."""
    line: str = ""
    """What it says on standard output; nothing if it has no result."""
    trace: str = ""
    """The traceback of an error that does not explain itself."""
    warnings: tuple[str, ...] = ()
    """What a user must know of its value."""


def print_summary(results: Sequence[JobResult]) -> None:
    """Print a row a job on standard error, naming it by the overrides that not all jobs share."""
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
        # Masked before the table folds a secret over two lines.
        cells = (Text(redacted(text, values)) for text in (name, result.text))
        table.add_row(result.ending, *cells)
    Console(stderr=True).print(table)


def print_warnings(results: Sequence[JobResult]) -> None:
    """Print each warning of the jobs once, on standard error, and how many of several jobs gave it."""
    counts = Counter(text for result in results for text in dict.fromkeys(result.warnings))
    values = known_values()
    for text, count in counts.items():
        by = f" ({count} of {len(results)} jobs)" if len(results) > 1 else ""
        sys.stderr.write(f"warning{by}: {redacted(text, values)}\n")
