"""Finer scales have no larger weight error."""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from harness.claims.claim import Answered
from harness.claims.grouping import Row
from harness.claims.suspects.suspect import Suspect
from harness.results.record import LayerReport

SLACK = 1.05
"""A finer scale may have so many times the error of a layer: where values fall is luck."""


def finer_but_worse(answered: Answered) -> Iterator[Suspect]:
    """Yield rows with a larger weight error than the same format with coarser scales.

    The blocks of the finer format lie inside those of the coarser one, so that no scale is larger.
    Power-of-two scales (MX) break this rule rightly: which values they clip is luck. So do weights
    that lie on the grid of the coarser format, because they were rounded to it before.
    """
    for row in answered.group.rows:
        coarser = [other for other in answered.group.rows if _is_finer(row, other)]
        if not coarser:
            continue
        other = min(coarser, key=_fineness)
        own, others = _errors(row.quant.layers), _errors(other.quant.layers)
        on_grid = _least_error(row.element)
        worse = [
            key
            for key in own.keys() & others.keys()
            if others[key] > on_grid and own[key] > SLACK * others[key]
        ]
        if worse:
            worst = max(worse, key=lambda key: (own[key] - others[key], key))
            yield Suspect(
                row=row,
                reason=(
                    f"{len(worse)} of {len(own)} layers have a larger weight error than with "
                    f"{other.label}, whose scales are coarser (in {worst[0]} {own[worst]:.3g}, "
                    f"{others[worst]:.3g} with the coarser); finer scales make errors smaller: "
                    "look for a fault in how blocks are cut or scales are stored"
                ),
            )


def _is_finer(row: Row, other: Row) -> bool:
    """Whether two recipes differ in how fine their scales are, and the first is finer."""
    if not re.match(r"(int|fp)\d", row.element or "") or _kind(row) != _kind(other):
        return False
    if row.quant.calibration or other.quant.calibration:
        return False
    own, others = _group_size(row), _group_size(other)
    # A small group lies inside a large one if it divides it.
    nested = own and others and (np.isinf(others) or others % own == 0)
    return bool(nested and _fineness(row) < _fineness(other))


def _kind(row: Row) -> tuple[Any, ...]:
    """Return what a recipe has beside the granularity of its scales."""
    return row.element, row.quant.backend, row.quant.num_quantized, row.model.fingerprint


def _group_size(row: Row) -> float | None:
    """Return the weights of a group; infinity for a row or a tensor, None for other blocks."""
    if row.granularity in ("row", "tensor"):
        return np.inf
    found = re.fullmatch(r"g(\d+)", row.granularity or "")
    return float(found[1]) if found else None


def _fineness(row: Row) -> tuple[float, bool]:
    """Return a key that is smaller for finer scales."""
    return _group_size(row) or 0.0, row.granularity == "tensor"


def _errors(layers: Iterable[LayerReport]) -> Mapping[tuple[str, tuple[int, ...]], float]:
    return {(layer.name, layer.shape): layer.rel_error for layer in layers}


def _least_error(element: str | None) -> float:
    """Return the relative error that rounding to b bits has at least, unless weights lie on a grid.

    2^b codes over [-m, m] are 2m / 2^b apart, so numbers between them have an error of
    2m / 2^b / sqrt(12), and a norm of at most m (each by the root of their number).
    """
    bits = re.match(r"(?:int|fp)(\d+)", element or "")
    return 2.0 ** (1 - int(bits[1])) / math.sqrt(12) if bits else 0.0
