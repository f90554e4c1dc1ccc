"""Progress of a long loop: a bar on a terminal, elsewhere a log line every minute."""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

log = logging.getLogger(__name__)

LINE_S = 60.0
"""Least time between two lines where no bar can be drawn [s]."""
_only_lines = False


def in_lines() -> None:
    """Draw no bars in this process from now on, because several processes share the terminal."""
    global _only_lines
    _only_lines = True


class Bar:
    """A bar that counts finished samples and their tokens."""

    def __init__(self, progress: Progress, description: str, total: int) -> None:
        self._progress = progress
        self._task = progress.add_task(description, total=total, tokens=0, score="")
        self._said = self._began = time.monotonic()

    def advance(self, items: int = 1, *, tokens: int = 0, score: str | None = None) -> None:
        """Count more samples as done, and show the score so far."""
        fields = self._progress.tasks[self._task].fields
        self._progress.update(
            self._task,
            advance=items,
            tokens=fields["tokens"] + tokens,
            score=fields["score"] if score is None else score,
        )
        now = time.monotonic()
        if self._progress.disable and now - self._said >= LINE_S:
            self._said = now
            log.info("%s", self._line(now - self._began))

    def _line(self, seconds: float) -> str:
        task = self._progress.tasks[self._task]
        left = seconds / task.completed * (task.remaining or 0)
        score = f", {task.fields['score']}" if task.fields["score"] else ""
        return (
            f"{task.description}: {task.completed:.0f} of {task.total:.0f} in "
            f"{seconds / 60:.0f} min, about {left / 60:.0f} min left{score}"
        )


class _Rates(ProgressColumn):
    """Samples and tokens per second, since the start."""

    def render(self, task: Task) -> Text:
        seconds = task.elapsed
        if not seconds or not task.completed:
            return Text("")
        tokens = task.fields["tokens"]
        shown = f"{task.completed / seconds:.2f}/s"
        return Text(f"{shown}  {tokens / seconds:,.0f} token/s" if tokens else shown)


@contextmanager
def bar(description: str, total: int) -> Iterator[Bar]:
    """Context manager: show a bar while the block runs, if standard error is a terminal."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rates(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[score]}"),
    )
    console = Console(stderr=True)
    with Progress(
        *columns, console=console, disable=_only_lines or not sys.stderr.isatty()
    ) as progress:
        yield Bar(progress, description, total)
