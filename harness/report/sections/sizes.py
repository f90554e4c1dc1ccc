"""Bits, bytes and coverage of each recipe, once for each model."""

from collections import Counter
from collections.abc import Sequence

import pandas as pd

from harness.claims.grouping import Group, Row
from harness.report.sections.section import Section
from harness.report.titles import weights_words
from harness.results import formatting as figures

MEMORY = "in memory"
"""Title of the only column that older records have no value for."""


def sizes(groups: Sequence[Group]) -> list[Section]:
    """Return a table for each model; the title has the weights if two models share a name."""
    by_model: dict[tuple[str, str, str], list[Group]] = {}
    for group in groups:
        model = group.model
        by_model.setdefault((model.name, model.dtype, model.fingerprint), []).append(group)
    counts = Counter((name, dtype) for name, dtype, _ in by_model)
    sections = []
    for (name, dtype, fingerprint), of_model in by_model.items():
        mark = f", {weights_words(fingerprint)}" if counts[name, dtype] > 1 else ""
        sections.append(_section(of_model, f"{name}, {dtype}{mark}"))
    return sections


def _section(groups: Sequence[Group], title: str) -> Section:
    model = groups[0].model
    return Section(
        name="sizes",
        title=f"Size and coverage: {title}",
        text=(
            f"{model.num_parameters:,} parameters, {figures.megabytes(model.float_bytes)} in "
            f"{model.dtype}. bits/weight is the mean over quantized weights, scales included; "
            "coverage is the share of the parameters of a text run that is quantized. In memory is "
            "what codes, scales and float parameters take while the model runs: of fake-quantized "
            "models as much as of the unquantized model; records made before it was kept have "
            f"{figures.MISSING}."
        ),
        table=pd.DataFrame(_distinct_cells(groups)),
    )


def _distinct_cells(groups: Sequence[Group]) -> list[dict[str, str]]:
    """Return the cells of each recipe once, smallest model first.

    The same recipe in another task is the same row, although its label may differ there.
    """
    rows = sorted(
        (row for group in groups for row in group.rows),
        key=lambda row: (row.quant.model_bytes, row.quant.stored_bytes is None),
    )
    found: dict[tuple[str, ...], dict[str, str]] = {}
    known = set()
    for row in rows:
        cells = _cells(row)
        facts = [value for title, value in cells.items() if title not in ("recipe", MEMORY)]
        recipe = (row.quant.name, row.model.name, *facts)
        # A record without its size in memory adds nothing to a record with it.
        if cells[MEMORY] != figures.MISSING or recipe not in known:
            found.setdefault((*recipe, cells[MEMORY]), cells)
        known.add(recipe)
    return list(found.values())


def _cells(row: Row) -> dict[str, str]:
    quant = row.quant
    stored = quant.stored_bytes
    return {
        "recipe": row.label,
        "path": figures.path(quant),
        "format": ", ".join(quant.formats.values()) or row.model.dtype,
        "bits/weight": f"{quant.bits_per_weight:.3f}",
        "model, if stored packed": figures.megabytes(quant.model_bytes),
        "of the unquantized model": figures.share(quant.model_bytes / row.model.float_bytes),
        MEMORY: figures.MISSING if stored is None else figures.megabytes(stored),
        "coverage": figures.share(quant.coverage),
        "matrices quantized": figures.MISSING if _came_quantized(row) else str(len(quant.layers)),
        "left in float": _left(row),
    }


def _came_quantized(row: Row) -> bool:
    """Say whether the checkpoint was quantized elsewhere: its record lists no layers."""
    return not row.quant.layers and row.quant.coverage > 0


def _left(row: Row) -> str:
    """Return the first few matrices that stayed in float, with the reasons."""
    if row.is_baseline:
        return "everything"
    if _came_quantized(row):
        return figures.MISSING
    shown = [f"{skipped.name}: {skipped.reason}" for skipped in row.quant.skipped[:3]]
    more = len(row.quant.skipped) - len(shown)
    return "; ".join([*shown, *([f"and {more} more"] if more else [])]) or "nothing"
