"""Warm-up until times have settled.

The first runs compile, tune, fill caches and wake up clocks. How many do is not known beforehand, so runs go on until

    |median(last k) / median(k before) - 1| < tolerance

or until a cap on their number or time. The record says how many there were, and whether that was enough.
"""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

WINDOW = 3
"""Runs that are compared with as many before."""
TOLERANCE = 0.02
MOST_RUNS = 20
MOST_S = 60.0
"""No further run begins after so much time [s]."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WarmUp:
    """What was thrown away."""

    seconds: tuple[float, ...]
    """Time of each run [s]."""
    steady: bool
    """Times had settled when it ended."""


def warm_up(run: Callable[[], float]) -> WarmUp:
    """Repeat a run, which returns its time [s], until it is steady or a cap is met; at least once."""
    seconds = [run()]
    while not (steady := is_steady(seconds)) and len(seconds) < MOST_RUNS and sum(seconds) < MOST_S:
        seconds.append(run())
    return WarmUp(seconds=tuple(seconds), steady=steady)


def is_steady(seconds: list[float]) -> bool:
    """Say whether the last times are like those before them."""
    if len(seconds) < 2 * WINDOW:
        return False
    last, before = median(seconds[-WINDOW:]), median(seconds[-2 * WINDOW : -WINDOW])
    return abs(last - before) < TOLERANCE * before
