"""`python -m harness.anchors`: the published figures that runs are compared with."""

import argparse
import sys
import textwrap
from collections.abc import Iterator, Sequence

import pandas as pd

from harness import __version__
from harness.anchors.files import anchors
from harness.anchors.schema import Anchor, PublishedTable
from harness.errors import ConfigError, HarnessError
from harness.messages import did_you_mean, program
from harness.output.redacted_streams import redacted_streams
from harness.output.stdout import printing
from harness.results.formatting import MISSING

WIDTH = 100
NUMBERS = ("published", "tolerance")
"""Columns that are aligned right."""


def main() -> None:
    """Print the figures of the command line; exit with 1 if there are none."""
    arguments = parser().parse_args()
    try:
        found = chosen(anchors(), arguments.model, arguments.task)
    except HarnessError as reason:
        sys.stderr.write(f"{reason}\n")
        sys.exit(1)
    with printing():
        sys.stdout.write(page(found))


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    found = argparse.ArgumentParser(
        prog=program("harness.anchors"),
        description="List published figures with their protocols. A run of the same model under "
        "the same protocol says whether it reproduces them.",
    )
    found.add_argument("--version", action="version", version=f"quant-harness {__version__}")
    found.add_argument("--model", metavar="TEXT", help="only models with this in their name")
    found.add_argument("--task", metavar="NAME", help="only figures of this task")
    return found


def chosen(known: Sequence[Anchor], model: str | None, task: str | None) -> list[Anchor]:
    """Return the figures of a model and of a task, by model; None stands for all.

    Raises:
        ConfigError: There are none.
    """
    of_model = [a for a in known if (model or "").lower() in a.published.model.lower()]
    if not of_model:
        models = list(dict.fromkeys(anchor.published.model for anchor in known))
        raise ConfigError(
            f"--model must be a part of the name of a model with published figures, got {model}; "
            f"models: {', '.join(models)}"
        )
    found = [anchor for anchor in of_model if task in (None, anchor.table.task)]
    if not found:
        tasks = sorted({anchor.table.task for anchor in of_model if anchor.table.task is not None})
        raise ConfigError(
            f"--task must be a task with published figures of these models, got "
            f"{task}{did_you_mean(str(task), tasks)}; tasks: {', '.join(tasks)}"
        )
    return sorted(found, key=lambda anchor: anchor.published.model.lower())


def page(found: Sequence[Anchor]) -> str:
    """Return a table of figures, and below it where they come from."""
    # Tables hold mappings, which have no hash: they are told apart by their place in the list.
    tables: list[PublishedTable] = []
    for anchor in found:
        if anchor.table not in tables:
            tables.append(anchor.table)
    rows = pd.DataFrame([_cells(anchor, tables.index(anchor.table) + 1) for anchor in found])
    sides = ["right" if column in NUMBERS else "left" for column in rows]
    text = rows.to_markdown(index=False, disable_numparse=True, colalign=sides)
    lines = [line for number, table in enumerate(tables, 1) for line in _source(number, table)]
    return "\n".join((text, "", *lines, ""))


def _cells(anchor: Anchor, number: int) -> dict[str, str]:
    published = anchor.published
    recipe = () if published.recipe is None else (f"quant={published.recipe}",)
    # A quantization that no recipe of the harness makes cannot be repeated here.
    is_known = published.quantization is None or published.recipe is not None
    return {
        "model": published.model,
        "quantization": published.quantization or "none",
        "metric": anchor.table.metric,
        "published": f"{published.value:.10g}",
        "tolerance": f"{anchor.tolerance:.3g}",
        "repeat with": (is_known and " ".join((*recipe, *anchor.words))) or MISSING,
        "source": str(number),
    }


def _source(number: int, table: PublishedTable) -> Iterator[str]:
    """Yield lines on a source: its name and address, its protocol, the reason of the tolerance."""
    yield f"{number}  {table.source}: {table.url}"
    for text in (f"protocol: {table.protocol}", f"tolerance: {table.why}"):
        yield from textwrap.wrap(text, WIDTH, initial_indent="   ", subsequent_indent="   ")


if __name__ == "__main__":
    with redacted_streams():
        main()
