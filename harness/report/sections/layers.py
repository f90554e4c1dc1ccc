"""The rounding error of each weight under each recipe: which layers a recipe hurts most.

A table has a row for each recipe, so Markdown has it too. A picture has every layer.
"""

from collections.abc import Mapping, Sequence
from statistics import median

import pandas as pd

from harness.claims.grouping import Group, Row
from harness.report.sections.section import Picture, Section, runs_of
from harness.report.titles import weights_words
from harness.results.record import LayerReport

MOST_DRAWN = 12
"""So many recipes are drawn, those with the largest errors; the table has all."""
OUTSIDE = "none"
"""Block of a layer that lies in no block, such as the LM head."""
ORANGE = "#e6730a"
CELL = 10
"""Width and height of a layer in the picture [pixel]."""


def by_layer(groups: Sequence[Group]) -> list[Section]:
    """Return a section for each model that has a recipe with errors by layer."""
    models: dict[tuple[str, str], dict[str, Row]] = {}
    for row in (row for group in groups for row in group.rows if row.quant.layers):
        # A recipe rounds the weights of a model alike in every task.
        models.setdefault((row.model.name, row.model.fingerprint), {}).setdefault(row.label, row)
    shared = [name for name, _ in models]
    return [
        _section(
            name if shared.count(name) == 1 else f"{name}, {weights_words(fingerprint)}",
            sorted(rows.values(), key=_middle),
            number,
        )
        for number, ((name, fingerprint), rows) in enumerate(models.items(), start=1)
    ]


def _section(model: str, rows: Sequence[Row], number: int) -> Section:
    drawn = rows[-MOST_DRAWN:]
    some = f" The {MOST_DRAWN} recipes with the largest errors are drawn."
    return Section(
        name="by-layer",
        title=f"By layer: {model}",
        text=(
            "How far rounding moves each weight: norm of the error over norm of the weight "
            "(Frobenius), smallest median first. A recipe with a few layers far above its median "
            "can gain by leaving them out with quant.skip. The error of a weight is not its cost "
            "in quality: layers differ in how much they matter."
            + (some if len(drawn) < len(rows) else "")
        ),
        table=pd.DataFrame([_cells(row) for row in rows]),
        runs=runs_of(rows),
        picture=Picture(name=f"layers-{number}", spec=heat_map(drawn)),
    )


def _middle(row: Row) -> float:
    """Return the median error of a recipe's layers."""
    return median(layer.rel_error for layer in row.quant.layers)


def _worst(row: Row) -> LayerReport:
    """Return the layer with the largest error."""
    return max(row.quant.layers, key=lambda layer: layer.rel_error)


def _cells(row: Row) -> dict[str, str]:
    middle = _middle(row)
    worst = _worst(row)
    times = f"{worst.rel_error / middle:.2f}" if middle else "-"
    return {
        "recipe": row.label,
        "format": ", ".join(dict.fromkeys(layer.format for layer in row.quant.layers)),
        "layers": str(len(row.quant.layers)),
        "median error": f"{middle:.3g}",
        "largest error": f"{worst.rel_error:.3g}",
        "largest / median": times,
        "layer with the largest error": worst.name,
    }


def heat_map(rows: Sequence[Row]) -> Mapping[str, object]:
    """Return a panel for each recipe, as Vega-Lite: blocks from left to right, kinds below.

    The shade is the error over the median of the recipe: so recipes of 4 and of 8 bits can be
    compared, and a page may be dark or light. Layers of one place, such as the experts of a block,
    share a cell with their maximum.
    """
    shade = {
        "field": "ratio",
        "type": "quantitative",
        "title": "error / median of the recipe",
        "scale": {"domain": [1, _largest_ratio(rows)], "range": [0.08, 1], "clamp": True},
        "legend": {"orient": "bottom", "tickCount": 4},
    }
    panel = {
        "width": {"step": CELL},
        "height": {"step": CELL},
        "view": {"stroke": "gray", "strokeOpacity": 0.4},
        "mark": {"type": "rect", "color": ORANGE},
        "encoding": {
            "x": {
                "field": "block",
                "type": "ordinal",
                "sort": None,
                "axis": {"title": "block", "labelAngle": 0, "labelOverlap": True},
            },
            "y": {
                "field": "kind",
                "type": "ordinal",
                "sort": None,
                "axis": {"title": None, "labelOverlap": False, "labelFontSize": CELL},
            },
            "opacity": shade,
            "tooltip": [
                {"field": "recipe"},
                {"field": "block"},
                {"field": "kind"},
                {"field": "error", "type": "quantitative"},
            ],
        },
    }
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "data": {"values": [value for row in rows for value in _values(row)]},
        "transform": [
            {"flatten": ["block", "error"]},
            {
                "joinaggregate": [{"op": "median", "field": "error", "as": "middle"}],
                "groupby": ["recipe"],
            },
            {"calculate": "datum.error / datum.middle", "as": "ratio"},
        ],
        "facet": {"field": "recipe", "sort": [row.label for row in rows], "title": None},
        "columns": 2,
        "spec": panel,
    }


def _largest_ratio(rows: Sequence[Row]) -> float:
    """Return how far the worst layer of any recipe is above the median, from 1.1 to 4."""
    ratios = [_worst(row).rel_error / _middle(row) for row in rows if _middle(row)]
    return min(max([1.1, *ratios]), 4.0)


def _values(row: Row) -> list[dict[str, object]]:
    """Return the largest error of each place of a model: for each kind, blocks and their errors."""
    kinds: dict[str, dict[str, float]] = {}
    for layer in row.quant.layers:
        block, kind = _place(layer)
        of_kind = kinds.setdefault(kind, {})
        of_kind[block] = max(layer.rel_error, of_kind.get(block, 0))
    return [
        {
            "recipe": row.label,
            "kind": kind,
            "block": [*errors],
            "error": [float(f"{error:.3g}") for error in errors.values()],
        }
        for kind, errors in kinds.items()
    ]


def _place(layer: LayerReport) -> tuple[str, str]:
    """Return block and kind of a layer, such as 3 and `mlp.up_proj`; further numbers are left out.

    Example:
        `model.layers.3.mlp.experts.7.up_proj` -> `("3", "mlp.experts.up_proj")`.
    """
    parts = layer.name.split(".")
    first = next((index for index, part in enumerate(parts) if part.isdigit()), None)
    if first is None:
        return OUTSIDE, layer.name
    kind = [part for part in parts[first + 1 :] if not part.isdigit()]
    return parts[first], ".".join(kind) or layer.name
