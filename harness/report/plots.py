"""The pictures of a report, and what they are drawn from: `Cost` and `SpeedBar`."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness import extras, stats
from harness.claims.claim import Claim
from harness.claims.grouping import Row
from harness.output import picture
from harness.output.temporary import check_temporary
from harness.results.float_paths import Way

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MATMUL_COLORS: Mapping[Way, str] = {"native": "tab:red", "float32": "tab:orange"}
"""Colors of the unquantized model's speeds, by its matmuls."""
LEFT_OUT = (
    "The picture is left out, because matplotlib is not installed: "
    f"{extras.install('plots')}, and write the report again."
)
"""Stands in a section in place of its picture."""
SMALLEST_SHOWN = 1e-4
"""Smaller differences [nat/token] are drawn on a linear scale."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What one format costs in quality."""

    claim: Claim
    """Its difference of the mean NLL from the baseline's [nat/token]."""
    on_frontier: bool = False
    """No other format of the group has both fewer or equal bits and a smaller cost."""

    @property
    def row(self) -> Row:
        """The run."""
        return self.claim.row

    @property
    def nll(self) -> float:
        """Mean NLL minus the baseline's [nat/token]."""
        return self.claim.difference.value

    @property
    def interval(self) -> stats.Interval | None:
        """95 % interval of the difference."""
        return self.claim.difference.interval

    @property
    def bits(self) -> float:
        """Bits per quantized weight, scales included."""
        return self.row.quant.bits_per_weight


@dataclass(frozen=True, kw_only=True, slots=True)
class SpeedBar:
    """The speed of one recipe in one phase [token/s]."""

    label: str
    value: float
    spread: float
    """Interquartile range."""
    beside: Mapping[Way, float]
    """Speeds of the unquantized model timed with it, by matmuls."""
    is_baseline: bool


@contextmanager
def _quietly() -> Iterator[None]:
    """Context manager that draws a letter which the font lacks as a box, without warnings."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        yield


@_quietly()
def scatter_of_costs(costs: Sequence[Cost], title: str, path: Path) -> bool:
    """Draw log-loss differences with their intervals against bits per weight, and write a PNG.

    Returns:
        Whether the picture is there; without matplotlib it is not.
    """
    if not extras.is_installed("matplotlib"):
        return False
    figure = _figure(figsize=(9, 5.5))
    from harness.display.labels import write_labels  # noqa: PLC0415

    axes = figure.subplots()
    for cost in costs:
        color = _color(cost)
        axes.plot(cost.bits, cost.nll, "o", color=color, markersize=5, zorder=3)
        if cost.interval is not None:
            low, high = cost.interval
            axes.plot([cost.bits] * 2, [low, high], color=color, linewidth=1.2, zorder=2)
    frontier = [cost for cost in costs if cost.on_frontier]
    line = [cost.bits for cost in frontier], [cost.nll for cost in frontier]
    axes.plot(*line, color="tab:blue", linewidth=0.8, alpha=0.5, label="frontier")
    axes.margins(x=0.12, y=0.08)
    _scale(axes, costs)
    axes.set_xlabel("bits per quantized weight, scales included")
    axes.set_ylabel("log-loss above the baseline [nat/token], 95 % interval")
    # Names may have dollar signs: no math.
    axes.set_title(f"Quality against bits: {title}", parse_math=False)
    axes.grid(alpha=0.25)
    axes.legend(loc="upper right", frameon=False)
    figure.draw_without_rendering()  # the layout fixes where points lie, before labels are placed
    figure.set_layout_engine("none")
    write_labels(
        axes,
        [(cost.bits, cost.nll) for cost in costs],
        [cost.row.label for cost in costs],
        [_color(cost) for cost in costs],
        size=7.5,
    )
    figure.savefig(path, metadata=picture.METADATA)
    return True


@_quietly()
def bars_of_throughput(bars: Mapping[str, Sequence[SpeedBar]], title: str, path: Path) -> bool:
    """Draw a panel for each phase: speeds with their interquartile ranges. Write a PNG.

    Marks on a bar are the speeds of the unquantized model that was timed with the recipe.

    Returns:
        Whether the picture is there; without matplotlib it is not.
    """
    if not extras.is_installed("matplotlib"):
        return False
    rows = max(len(of_phase) for of_phase in bars.values())
    figure = _figure(figsize=(9, 1.9 + 0.4 * rows))
    panels = figure.subplots(1, len(bars), sharey=True, squeeze=False)[0]
    for axes, (phase, of_phase) in zip(panels, bars.items(), strict=True):
        _draw_bars(axes, of_phase)
        axes.set_xlabel(f"{phase} [token/s]")
    panels[0].invert_yaxis()  # the first on top; the panels share the axis
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=8
    )
    figure.suptitle(title, fontsize=10, parse_math=False)
    figure.savefig(path, metadata=picture.METADATA)
    return True


def _figure(figsize: tuple[float, float]) -> "Figure":
    # matplotlib needs a folder for its cache when it is imported. A report without pictures needs
    # neither: hence the import in the function.
    check_temporary()
    from matplotlib.figure import Figure  # noqa: PLC0415

    return Figure(figsize=figsize, dpi=120, layout="constrained")


def _draw_bars(axes: "Axes", bars: Sequence[SpeedBar]) -> None:
    places = range(len(bars))
    colors = ["dimgray" if bar.is_baseline else "tab:blue" for bar in bars]
    axes.barh(places, [bar.value for bar in bars], color=colors, alpha=0.7, height=0.6)
    axes.errorbar(
        [bar.value for bar in bars],
        places,
        xerr=[bar.spread / 2 for bar in bars],
        fmt="none",
        ecolor="black",
        elinewidth=1.2,
        capsize=3,
        label="as long as the interquartile range, around the median",
    )
    for matmuls, color in MATMUL_COLORS.items():
        beside = [(bar.beside[matmuls], i) for i, bar in enumerate(bars) if matmuls in bar.beside]
        if beside:
            label = f"float with {matmuls} products, timed with it"
            axes.plot(*zip(*beside, strict=True), "|", color=color, markersize=14, label=label)
    axes.set_yticks(places, [bar.label for bar in bars], fontsize=8, parse_math=False)
    axes.set_xlim(left=0)
    axes.grid(axis="x", alpha=0.25)


def _color(cost: Cost) -> str:
    return "tab:blue" if cost.on_frontier else "dimgray"


def _scale(axes: "Axes", costs: Sequence[Cost]) -> None:
    """Set a logarithmic scale if every interval is above 0, else one that is linear around 0."""
    lows = [cost.nll if cost.interval is None else cost.interval.low for cost in costs]
    if min(lows) > 0:
        axes.set_yscale("log")
        return
    smallest = min(abs(cost.nll) for cost in costs)
    axes.set_yscale("symlog", linthresh=max(smallest / 2, SMALLEST_SHOWN))
    axes.axhline(0, color="black", linewidth=0.8)
