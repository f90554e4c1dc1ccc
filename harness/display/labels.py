"""Labels beside points, placed so that they cover neither points nor each other where there is room.

Greedy: each label takes the first free place of a list that goes outward from its point, or, if none is free, the place
where it covers least. A label that had to go far is tied to its point by a line.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch
from numpy.typing import NDArray

Vector = NDArray[np.float64]

DISTANCES = (4, 8, 13, 19, 26, 35, 46, 60, 76, 95)
"""From a point to the nearest edge of its label [points of 1/72 inch]."""
FARTHEST_WITHOUT_LINE = 4
DIRECTIONS = np.deg2rad([0, 180, 90, 270, 45, 315, 135, 225, 20, 340, 160, 200, 70, 110, 250, 290])
POINT = 4.0
"""Half the width of what a point covers [points]."""
MARGIN = 1.0
"""Free space around a label [points]."""
BEHIND = {"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.8}
"""Keeps a label legible where the line of another passes under it."""


def write_labels(
    axes: Axes,
    points: Sequence[tuple[float, float]],
    texts: Sequence[str],
    colors: Sequence[str],
    size: float,
) -> None:
    """Write a text beside each point, given in data coordinates; limits and layout must be final."""
    per_point = axes.figure.dpi / 72
    frame = np.asarray(axes.bbox.extents)
    centers = np.asarray(axes.transData.transform(points))
    taken = [np.concatenate([c - POINT * per_point, c + POINT * per_point]) for c in centers]
    legend = axes.get_legend()
    if legend is not None:
        taken.append(np.asarray(legend.get_window_extent().extents))
    # From the top down, so that those below can move further down.
    for index in np.argsort(-centers[:, 1], kind="stable"):
        color = colors[index]
        note = axes.annotate(
            texts[index],
            points[index],
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
