"""Labels beside the points of a plot that cover neither points nor each other.

The algorithm is greedy, from the top of the plot to its bottom:

1. The candidates for a label are places around its point, nearest first.
2. The label takes the first free place, or the place where it covers the least area.
3. A label that is far from its point gets a line to it.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch
from matplotlib.text import Annotation
from numpy.typing import NDArray

Vector = NDArray[np.float64]

DISTANCES = (4, 8, 13, 19, 26, 35, 46, 60, 76, 95)
"""Distances of candidates: from a point to the nearest edge of its label [points of 1/72 inch]."""
FARTHEST_WITHOUT_LINE = 4
"""A label that is farther away gets a line [points]."""
DIRECTIONS = np.deg2rad([0, 180, 90, 270, 45, 315, 135, 225, 20, 340, 160, 200, 70, 110, 250, 290])
"""Directions of candidates, preferred first: right, left, above, below, then diagonals."""
POINT = 4.0
"""Half the width of the square that a point covers [points]."""
MARGIN = 1.0
"""Free space around a label [points]."""
BEHIND = {"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.8}
"""A box behind each label: lines of other labels pass under the text."""


def write_labels(
    axes: Axes,
    points: Sequence[tuple[float, float]],
    texts: Sequence[str],
    colors: Sequence[str],
    size: float,
) -> None:
    """Write a text beside each point. Limits and layout of the axes must be final.

    Args:
        axes: The axes to write on.
        points: In data coordinates.
        texts: One for each point.
        colors: One for each point.
        size: Of the font [points].
    """
    per_point = axes.figure.dpi / 72
    frame = np.asarray(axes.bbox.extents)
    centers = np.asarray(axes.transData.transform(points))
    taken = [np.concatenate([c - POINT * per_point, c + POINT * per_point]) for c in centers]
    legend = axes.get_legend()
    if legend is not None:
        taken.append(np.asarray(legend.get_window_extent().extents))
    # From the top down: labels below can still move further down.
    for index in np.argsort(-centers[:, 1], kind="stable"):
        note = _annotation(axes, points[index], texts[index], colors[index], size)
        extent = note.get_window_extent()
        half = np.array([extent.width, extent.height]) / 2 + MARGIN * per_point
        offset, distance = _place(centers[index], half, per_point, frame, taken)
        taken.append(
            np.concatenate([centers[index] + offset - half, centers[index] + offset + half])
        )
        note.set_position((offset[0] / per_point, offset[1] / per_point))
        line: FancyArrowPatch | None = note.arrow_patch
        if line is not None and distance <= FARTHEST_WITHOUT_LINE:
            line.set_visible(False)


def _annotation(
    axes: Axes, point: tuple[float, float], text: str, color: str, size: float
) -> Annotation:
    """Return a text at a point, with a line to it."""
    return axes.annotate(
        text,
        point,
        (0, 0),
        textcoords="offset points",
        ha="center",
        va="center",
        fontsize=size,
        color=color,
        parse_math=False,  # names may have dollar signs
        bbox=BEHIND,
        arrowprops={"arrowstyle": "-", "color": color, "lw": 0.5, "shrinkA": 0},
    )


def _place(
    center: Vector, half: Vector, per_point: float, frame: Vector, taken: Sequence[Vector]
) -> tuple[Vector, float]:
    """Return the offset of a label's center [pixels] and its distance from the point [points]."""
    boxes = np.stack(taken)
    best, least = (np.zeros(2), 0.0), np.inf
    for offset, distance in _candidates(half, per_point):
        box = np.concatenate([center + offset - half, center + offset + half])
        inside = (box[:2] >= frame[:2]).all() and (box[2:] <= frame[2:]).all()
        common = np.minimum(boxes[:, 2:], box[2:]) - np.maximum(boxes[:, :2], box[:2])
        covered = float(common.clip(min=0).prod(axis=1).sum())
        if inside and covered < least:
            best, least = (offset, distance), covered
        if least == 0:
            break
    return best


def _candidates(half: Vector, per_point: float) -> Iterator[tuple[Vector, float]]:
    for distance in DISTANCES:
        for angle in DIRECTIONS:
            direction = np.array([np.cos(angle), np.sin(angle)])
            yield direction * (half + (POINT + distance) * per_point), distance
