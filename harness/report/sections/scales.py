"""What the scales of each recipe cost: their number, their bytes, and their share of the model."""

import math
import re
from collections.abc import Sequence

import pandas as pd

from harness.claims.grouping import Group, Row
from harness.report.sections.section import Section
from harness.report.titles import weights_words
from harness.results import formatting as figures
from harness.results.record import LayerReport

BITS = re.compile(r"(?:mx|nv)?(?:int|fp|nf)(\d)")
"""Begins the name of a format: the bits of a code."""
PLAIN = re.compile(r"(?:int\d|fp8_e4m3fn|fp8_e5m2)_(?:(tensor)|(row)|g(\d+))")
"""Formats with one scale for a tensor, a row, or a group, and nothing else beside the codes."""


def cost_of_scales(groups: Sequence[Group]) -> list[Section]:
    """Return a table for each model with quantized weights whose codes have known bits."""
    models: dict[tuple[str, str], dict[tuple[str, ...], Row]] = {}
    for row in (row for group in groups for row in group.rows):
        if row.quant.layers and all(BITS.match(layer.format) for layer in row.quant.layers):
            # A recipe has the same scales in every task.
            key = (row.label, *sorted({layer.format for layer in row.quant.layers}))
            model = models.setdefault((row.model.name, row.model.fingerprint), {})
            model.setdefault(key, row)
    return [
        Section(
            name="cost-of-scales",
            title=f"Cost of the scales: {name}, {weights_words(fingerprint)}",
            text=(
                "Scales are what a quantized weight stores beside its codes, zero points included. "
                "Bytes are of the packed weights: bits/weight minus the bits of a code. The share "
                "is of the whole packed model. Fewest bytes first. The number is counted from the "
                f"shapes, and {figures.MISSING} for formats with scales of several levels."
            ),
            table=pd.DataFrame([_cells(row) for row in sorted(rows.values(), key=scale_bytes)]),
        )
        for (name, fingerprint), rows in models.items()
    ]


def _cells(row: Row) -> dict[str, str]:
    size, number = scale_bytes(row), num_scales(row)
    return {
        "recipe": row.label,
        "format": ", ".join(dict.fromkeys(layer.format for layer in row.quant.layers)),
        "scales": figures.MISSING if number is None else f"{number:,}",
        "bytes": f"{size:,.0f}",
        "of the model": f"{100 * size / row.quant.model_bytes:.3f} %",
        "bits/weight": f"{row.quant.bits_per_weight:.3f}",
    }


def scale_bytes(row: Row) -> float:
    """Return the bytes of all scales of a recipe."""
    return sum(
        (layer.bits_per_weight - _code_bits(layer)) * math.prod(layer.shape) / 8
        for layer in row.quant.layers
    )


def num_scales(row: Row) -> int | None:
    """Return the number of scales of a recipe; None if a format has more than plain scales."""
    counts = [_scales_of(layer) for layer in row.quant.layers]
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def _code_bits(layer: LayerReport) -> int:
    found = BITS.match(layer.format)
    assert found is not None  # noqa: S101 - only such layers are counted
    return int(found[1])


def _scales_of(layer: LayerReport) -> int | None:
    found = PLAIN.fullmatch(layer.format)
    if found is None:
        return None
    tensor, row, size = found.groups()
    rows, columns = math.prod(layer.shape[:-1]), layer.shape[-1]
    if tensor:
        return 1
    return rows if row else rows * math.ceil(columns / int(size))
