"""Interleaved rounds: what is compared is measured side by side in time.

A machine drifts: it heats up, a neighbor wakes. Measured one after the other, candidates get the drift as a difference between them.
So every round measures each candidate once, in an order that is drawn anew, and differences are taken within rounds. The
baseline opens the first round and closes the last, so that it spans the whole time and its own drift can be seen.
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
    """Return what every candidate measured in each round; the first one is the baseline."""
    found: dict[str, list[Measured]] = {name: [] for name in candidates}
    with quiet():
        for name in schedule(list(candidates), rounds, seed):
            found[name].append(candidates[name]())
    return found


def schedule(names: list[str], rounds: int, seed: int) -> Iterator[str]:
    """Yield the names in the order in which they are measured."""
    baseline, draw = names[0], random.Random(seed)  # noqa: S311 - an order, not a secret
    for index in range(rounds):
        order = draw.sample(names, len(names))
        if index in (0, rounds - 1):
            order.remove(baseline)
            order.insert(0 if index == 0 else len(order), baseline)
        yield from order


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Python's garbage collector from running inside the block, and from looking at what is there already."""
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
