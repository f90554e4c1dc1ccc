"""Two drawings: error against storage on the tensors of a file, and the values of elements.

Both are matplotlib figures on the Agg canvas: files, never windows.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from harness.display.labels import write_labels
from harness.formats.codebook import Codebook
from harness.formats.integer import Integer
from harness.quant.tensor import TensorFormat
from harness.tensor.error import Error

DPI = 150
# The palette of Okabe and Ito, safe for color blindness.
FAMILIES = {
    "integer": ("#0072B2", "o"),
    "floating point": ("#D55E00", "s"),
    "codebook": ("#009E73", "D"),
    "HiFloat": ("#AA4488", "^"),
}
"""Kind of format -> color and marker."""
BIT_TICKS = (1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5, 5.5, 6, 7, 8, 9, 10, 12, 16, 24, 32)
MOST_BITS = 8
"""Largest number of bits of an element whose values are drawn one by one."""
MOST_LABELLED = 3
"""Largest number of formats that label one row of values."""


def family(fmt: TensorFormat) -> str:
    """Return the kind of a format, a key of `FAMILIES`: its element decides, except for HiFloat."""
    if fmt.name.startswith("hif"):
        return "HiFloat"
    if isinstance(fmt.element, Integer):
        return "integer"
    return "codebook" if isinstance(fmt.element, Codebook) else "floating point"


def draw_errors(
    errors: Mapping[str, Error], formats: Mapping[str, TensorFormat], title: str
) -> Figure:
    """Draw relative error against bits per element, one point a format; errors must be > 0."""
    figure = _figure(11, 7.5)
    axes = figure.add_subplot()
    points = [(error.bits_per_element, 100 * error.relative) for error in errors.values()]
    kinds = [family(formats[name]) for name in errors]
    colors = [FAMILIES[kind][0] for kind in kinds]
    for (bits, percent), kind, color in zip(points, kinds, colors, strict=True):
        marker = FAMILIES[kind][1]
        axes.plot(bits, percent, marker, color=color, ms=6, mec="white", mew=0.5, zorder=3)
    _scale_axes(axes, *zip(*points, strict=True))
    axes.set_title(title, fontsize=11, parse_math=False)  # names may contain dollar signs
    axes.legend(handles=_keys(kinds), loc="upper right", framealpha=1)
    figure.draw_without_rendering()
    # Labels are placed in pixels, so the layout must not change from here on.
    figure.set_layout_engine("none")
    write_labels(axes, points, list(errors), colors, size=7.5)
    return figure


def _scale_axes(axes: Axes, bits: Sequence[float], percent: Sequence[float]) -> None:
    """Set logarithmic axes with plain numbers, and an axis in decibels at the right."""
    low, high = min(percent) / 1.6, max(percent) * 1.6
    axes.set(xscale="log", yscale="log", ylim=(low, high), xlim=(min(bits) / 1.1, max(bits) * 1.25))
    axes.xaxis.set_major_locator(FixedLocator(BIT_TICKS))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_minor_formatter(NullFormatter())
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("storage, scales included [bits per element]", fontsize=11)
    axes.set_ylabel("relative error |x - q| / |x| [%]", fontsize=11)
    axes.grid(color="0.9", zorder=0)
    right = axes.twinx()
    right.set(yscale="log", ylim=(low, high))
    right.set_ylabel("SQNR [dB]", fontsize=11)
    levels = [db for db in range(-100, 400, 5) if low <= 100 * 10 ** (-db / 20) <= high]
    right.set_yticks([100 * 10 ** (-db / 20) for db in levels], [str(db) for db in levels])
    right.yaxis.set_minor_locator(NullLocator())


def has_grid(fmt: TensorFormat) -> bool:
    """Say whether the values of the element are few enough to be drawn."""
    return fmt.element.bits <= MOST_BITS


def draw_grids(formats: Mapping[str, TensorFormat]) -> Figure:
    """Draw the values of elements, one row for each, on a linear and on a logarithmic axis.

    A scale maps the largest magnitude of a block to the largest magnitude of the element, so values
    are drawn as shares of the latter. Every format must have a grid (`has_grid`).
    """
    users: dict[str, list[str]] = {}
    for name, fmt in formats.items():
        users.setdefault(fmt.element.name, []).append(name)
    rows = sorted(users, key=lambda element: (formats[users[element][0]].element.bits, element))
    figure = _figure(14, 1.9 + 0.34 * len(rows))
    linear, binary = figure.subplots(1, 2, sharey=True)
    for row, element in enumerate(rows):
        _draw_row(linear, binary, row, formats[users[element][0]])
    sizes = [len(formats[users[element][0]].element.values()) for element in rows]
    labels = [f"{element} ({size})" for element, size in zip(rows, sizes, strict=True)]
    right = binary.twinx()
    _scale_grids(linear, binary, labels)
    right.set(ylim=linear.get_ylim(), yticks=range(len(rows)))
    right.set_yticklabels([_some(users[element]) for element in rows], fontsize=8, parse_math=False)
    for axes in (linear, binary, right):
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", color="0.9")
    figure.suptitle("Values of the element formats, before scales", fontsize=12)
    kinds = [family(fmt) for fmt in formats.values()]
    figure.legend(handles=_keys(kinds, "s"), loc="outside lower center", ncols=4, frameon=False)
    return figure


def _draw_row(linear: Axes, binary: Axes, row: int, fmt: TensorFormat) -> None:
    """Draw the values of one element on `linear`, and their magnitudes on `binary`."""
    values = fmt.element.values()
    shares = values / values.abs().max()
    magnitudes: torch.Tensor = torch.unique(shares[shares != 0].abs())
    color = FAMILIES[family(fmt)][0]
    for axes, ticks in ((linear, shares), (binary, magnitudes)):
        axes.plot(ticks.numpy(), np.full(len(ticks), row), "|", color=color, ms=12, mew=0.7)


def _scale_grids(linear: Axes, binary: Axes, labels: Sequence[str]) -> None:
    """Set scales, labels and titles of both axes; `labels` name the rows."""
    count = len(labels)
    linear.set(xlim=(-1.03, 1.03), ylim=(count - 0.4, -0.6), yticks=range(count))
    linear.set_yticklabels(labels)
    linear.set_xticks([-1, -0.5, 0, 0.5, 1])
    linear.set_xlabel("value / largest magnitude")
    linear.set_title("linear; in brackets the number of values", fontsize=10)
    binary.set_xscale("log", base=2)
    binary.set_xlabel("magnitude / largest magnitude, without 0")
    binary.set_title("by powers of two; at the right the formats", fontsize=10)


def _keys(kinds: Iterable[str], marker: str = "") -> list[Line2D]:
    """Return the entries of a legend, one for each family that occurs."""
    present = [kind for kind in FAMILIES if kind in set(kinds)]
    return [
        Line2D([], [], linestyle="", color=FAMILIES[k][0], marker=marker or FAMILIES[k][1], label=k)
        for k in present
    ]


def _some(names: Sequence[str]) -> str:
    """Return the first names and the number of the others."""
    more = len(names) - MOST_LABELLED
    return ", ".join(names[:MOST_LABELLED]) + (f" and {more} more" if more > 0 else "")


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure
