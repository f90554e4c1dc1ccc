"""The sweeper of `python -m harness -m`: Hydra's own, and a summary at the end that names what failed."""

import sys
from collections.abc import Sequence
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from rich.console import Console
from rich.table import Table
from rich.text import Text


class SummarySweeper(BasicSweeper):
    """Runs every job, prints what became of each, and exits with 1 if some job failed."""

    def sweep(self, arguments: list[str]) -> Any:
        """Run all combinations of the swept values."""
        returns = super().sweep(arguments)
        results = [job.return_value for batch in returns for job in batch]
        print_summary(results)
        if not all(result.ok for result in results):
            sys.exit(1)
        return returns


def print_summary(results: Sequence[Any]) -> None:
    """Print a row a job: its overrides, and its headline or error."""
    failed = sum(not result.ok for result in results)
    title = f"{len(results)} jobs, {failed} failed" if failed else f"{len(results)} jobs, all done"
    table = Table(title=title, title_justify="left")
    for column in ("", "job", "result"):
        table.add_column(column, overflow="fold")
    for result in results:
        mark = "ok" if result.ok else "FAILED"
        table.add_row(mark, Text(result.overrides), Text(result.text))
    Console(stderr=True).print(table)
