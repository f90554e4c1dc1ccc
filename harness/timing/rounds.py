"""Interleaved rounds: measure candidates in turns, so that a drift of the machine hits all alike.

A machine drifts: it heats up, another process wakes. If candidates are measured one after the
other, the drift looks like a difference between them. So every round measures each candidate once,
in a random order, and differences are taken within rounds. The baseline opens the first round and
closes the last, so that its own drift shows.
"""

import gc
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

Measured = TypeVar("Measured")


def interleaved(
    candidates: Mapping[str, Callable[[], Measured]], rounds: int, seed: int
) -> dict[str, list[Measured]]:
    """Return the measurements of every candidate, one for each round; the first is the baseline."""
    found: dict[str, list[Measured]] = {name: [] for name in candidates}
    with quiet():
        for name in schedule(list(candidates), rounds, seed):
            found[name].append(candidates[name]())
    return found


def schedule(names: list[str], rounds: int, seed: int) -> Iterator[str]:
    """Yield names in the order of measurement."""
    baseline, draw = names[0], random.Random(seed)  # noqa: S311 - an order, not a secret
    for index in range(rounds):
        order = draw.sample(names, len(names))
        if index in (0, rounds - 1):
            order.remove(baseline)
            order.insert(0 if index == 0 else len(order), baseline)
        yield from order


@contextmanager
def quiet() -> Iterator[None]:
    """Context manager that stops Python's garbage collector and freezes existing objects."""
    enabled = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if enabled:
            gc.enable()
