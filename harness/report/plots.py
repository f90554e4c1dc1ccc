"""Pictures for reports; the one home of matplotlib in this package."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from harness.report.quality import Cost

SMALLEST_SHOWN = 1e-4
"""Differences below this [nat/token] are next to nothing, and drawn on a linear scale at any rate."""

LABEL_WIDTH, LABEL_HEIGHT = 62, 8
"""Room that a label takes [point]."""


def scatter_of_costs(costs: Sequence["Cost"], title: str, path: Path) -> None:
    """Draw log-loss differences with their intervals against bits per weight, and write a PNG."""
    figure = Figure(figsize=(9, 5.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    for cost in costs:
        color = "tab:blue" if cost.on_frontier else "tab:gray"
        axes.plot(cost.bits, cost.nll, "o", color=color, markersize=5, zorder=3)
        if cost.interval is not None:
            low, high = cost.interval
            axes.plot([cost.bits] * 2, [low, high], color=color, linewidth=1.2, zorder=2)
    frontier = [cost for cost in costs if cost.on_frontier]
    line = [cost.bits for cost in frontier], [cost.nll for cost in frontier]
    axes.plot(*line, color="tab:blue", linewidth=0.8, alpha=0.5, label="frontier")
    axes.axhline(0, color="black", linewidth=0.8)
    axes.margins(x=0.12)
    smallest = min(abs(cost.nll) for cost in costs)
    axes.set_yscale("symlog", linthresh=max(smallest / 2, SMALLEST_SHOWN))
    axes.set_xlabel("bits per quantized weight, scales included")
    axes.set_ylabel("log-loss above the baseline [nat/token], 95 % interval")
    axes.set_title(f"Quality against bits: {title}")
    axes.grid(alpha=0.25)
    axes.legend(loc="upper right", frameon=False)
    _label(axes, costs)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": ""})


def _label(axes: "Axes", costs: Sequence["Cost"]) -> None:
    """Write names beside the points; where they would overlap, one below the other."""
    figure = axes.get_figure(root=True)
    if figure is None:
        return
    figure.draw_without_rendering()  # the layout decides where points lie
    points_per_pixel = 72 / figure.dpi
    taken: list[tuple[float, float]] = []
    for cost in sorted(costs, key=lambda cost: -cost.nll):
        x, anchor = axes.transData.transform((cost.bits, cost.nll)) * points_per_pixel
        y = anchor
        while any(
            abs(x - other[0]) < LABEL_WIDTH and abs(y - other[1]) < LABEL_HEIGHT for other in taken
        ):
            y -= 1
        taken.append((x, y))
        label = axes.annotate(
            cost.row.label,
            (cost.bits, cost.nll),
            xytext=(5, y - anchor - 2.5),
            textcoords="offset points",
            fontsize=7,
        )
        label.set_in_layout(False)
