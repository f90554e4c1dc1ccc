"""Bits, bytes and coverage of each recipe, once for each model."""

from collections import Counter
from collections.abc import Sequence

import pandas as pd

from harness.report.grouping import Group, Row
from harness.report.sections.scores import Section
from harness.report.titles import weights_words
from harness.results import formatting as figures

MEMORY = "in memory"
"""The only column that older records lack."""


def sizes(groups: Sequence[Group]) -> list[Section]:
    """Bits, bytes and coverage of each recipe, once for each model."""
    by_model: dict[tuple[str, str, str], list[Group]] = {}
    for group in groups:
        model = group.model
        by_model.setdefault((model.name, model.dtype, model.fingerprint), []).append(group)
    names = Counter((name, dtype) for name, dtype, _ in by_model)
    sections = []
    for (name, dtype, fingerprint), of_model in by_model.items():
        apart = names[name, dtype] > 1
        mark = f", {weights_words(fingerprint)}" if apart else ""
        sections.append(_size_section(of_model, f"{name}, {dtype}{mark}"))
    return sections


def _size_section(groups: Sequence[Group], title: str) -> Section:
    model = groups[0].model
    rows = sorted(
        (row for group in groups for row in group.rows),
        key=lambda row: (row.quant.model_bytes, row.quant.stored_bytes is None),
    )
    cells: dict[tuple[str, ...], dict[str, str]] = {}
    known = set()
    for row in rows:
        own = _size_cells(row)
        # The same recipe in another task is the same row, whatever its label tells it from there.
        facts = [value for title, value in own.items() if title not in ("recipe", MEMORY)]
        recipe = (row.quant.name, row.model.name, *facts)
        # A record that does not say what it took in memory adds nothing to one that does.
        if own[MEMORY] != figures.MISSING or recipe not in known:
            cells.setdefault((*recipe, own[MEMORY]), own)
        known.add(recipe)
    return Section(
        title=f"Size and coverage: {title}",
        text=(
            f"{model.num_parameters:,} parameters, {figures.megabytes(model.float_bytes)} in {model.dtype}. "
            "bits/weight is the mean over quantized weights, scales included; coverage is the share of the "
            "parameters of a text run that is quantized. In memory is what codes, scales and float parameters take while the model runs: of "
            f"fake-quantized models as much as of the float model; records made before it was kept have {figures.MISSING}."
        ),
        table=pd.DataFrame(list(cells.values())),
    )


def _size_cells(row: Row) -> dict[str, str]:
    quant = row.quant
    return {
        "recipe": row.label,
        "path": figures.path(quant),
        "format": ", ".join(quant.formats.values()) or row.model.dtype,
        "bits/weight": f"{quant.bits_per_weight:.3f}",
        "model, if stored packed": figures.megabytes(quant.model_bytes),
        "of the float model": figures.share(quant.model_bytes / row.model.float_bytes),
        MEMORY: _in_memory(row),
        "coverage": figures.share(quant.coverage),
        "matrices quantized": _quantized(row),
        "left in float": _left(row),
    }


def _in_memory(row: Row) -> str:
    stored = row.quant.stored_bytes
    return figures.MISSING if stored is None else figures.megabytes(stored)


def _came_quantized(row: Row) -> bool:
    """Whether the weights were quantized before they came here: the record has no list of them."""
    return not row.quant.layers and row.quant.coverage > 0


def _quantized(row: Row) -> str:
    return figures.MISSING if _came_quantized(row) else str(len(row.quant.layers))


def _left(row: Row) -> str:
    """Return the first few matrices that stayed in float, with the reasons."""
    if row.is_baseline:
        return "everything"
    if _came_quantized(row):
        return figures.MISSING
    shown = [f"{skipped.name}: {skipped.reason}" for skipped in row.quant.skipped[:3]]
    more = len(row.quant.skipped) - len(shown)
    return "; ".join([*shown, *([f"and {more} more"] if more else [])]) or "nothing"
