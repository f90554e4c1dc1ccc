"""Warm up until times are steady.

The first runs compile, tune, fill caches and raise clocks. Their number is not known beforehand, so
runs are repeated until

    |median(last k) / median(k before) - 1| < tolerance

or until their number or total time reaches a cap. The record holds both the number of warm-ups and
whether they ended steady.
"""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

WINDOW = 3
"""k of the module docstring."""
TOLERANCE = 0.02
MOST_RUNS = 20
MOST_S = 60.0
"""Total time after which no further run begins [s]."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WarmUp:
    """The runs before the measurement."""

    seconds: tuple[float, ...]
    """Time of each run [s]."""
    steady: bool
    """Whether times were steady at the end."""


def warm_up(run: Callable[[], float]) -> WarmUp:
    """Repeat a run, which returns its time [s], until times are steady or a cap is reached."""
    seconds = [run()]
    while not (steady := is_steady(seconds)) and len(seconds) < MOST_RUNS and sum(seconds) < MOST_S:
        seconds.append(run())
    return WarmUp(seconds=tuple(seconds), steady=steady)


def is_steady(seconds: list[float]) -> bool:
    """Say whether the last `WINDOW` times agree with the `WINDOW` before."""
    if len(seconds) < 2 * WINDOW:
        return False
    last, before = median(seconds[-WINDOW:]), median(seconds[-2 * WINDOW : -WINDOW])
    return abs(last - before) < TOLERANCE * before
