"""What became of the jobs of one command, for the end of its output."""

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from rich.console import Console
from rich.table import Table
from rich.text import Text


class Ending(StrEnum):
    """How a job ended, as the summary spells it."""

    OK = "ok"
    FAILED = "FAILED"
    UNSUPPORTED = "unsupported"


@dataclass(frozen=True, kw_only=True, slots=True)
class JobResult:
    """What one job of a sweep, or a single run, has to say."""

    overrides: tuple[str, ...]
    """What the job was asked for."""
    ending: Ending
    text: str
    """Its headline, or its error."""
    warnings: tuple[str, ...] = ()
    """What a user must know of its value."""


def print_summary(results: Sequence[JobResult]) -> None:
    """Print a row a job on standard error, naming it by the overrides that not all jobs share."""
    shared = set(results[0].overrides).intersection(*(result.overrides for result in results))
    failed, unsupported = (
        sum(result.ending is ending for result in results)
        for ending in (Ending.FAILED, Ending.UNSUPPORTED)
    )
    title = f"{len(results)} jobs, {failed or 'none'} failed"
    title += f", {unsupported} not supported here" if unsupported else ""
    table = Table(title=title, title_justify="left")
    for column in ("", "job", "result"):
        table.add_column(column, overflow="fold")
    for result in results:
        name = " ".join(word for word in result.overrides if word not in shared)
        table.add_row(result.ending, Text(name), Text(result.text))
    Console(stderr=True).print(table)


def print_warnings(results: Sequence[JobResult]) -> None:
    """Print each warning of the jobs once, on standard error, and how many of several jobs gave it."""
    counts = Counter(text for result in results for text in dict.fromkeys(result.warnings))
    for text, count in counts.items():
        by = f" ({count} of {len(results)} jobs)" if len(results) > 1 else ""
        sys.stderr.write(f"warning{by}: {text}\n")
