"""A clock that moves only when a test moves it, and phases of known lengths."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import pairwise

import pytest


class FakeClock:
    """A clock that `sleep` moves; a mark is the time itself."""

    def __init__(self) -> None:
        self.time_ns = 1_000_000
        self.waits = 0

    def now(self) -> int:
        self.waits += 1
        return self.time_ns

    def mark(self) -> int:
        return self.time_ns

    def intervals(self, marks: list[int]) -> tuple[int, ...]:
        return tuple(after - before for before, after in pairwise(marks))

    def sleep(self, seconds: float) -> None:
        self.time_ns += round(seconds * 1e9)


class FakePhases:
    """Phases of known lengths."""

    def __init__(self, clock: FakeClock, prefill_s: float, steps_s: Iterable[float]) -> None:
        self.clock, self.prefill_s = clock, prefill_s
        self.steps: Iterator[float] = iter(steps_s)

    def prefill(self) -> None:
        self.clock.sleep(self.prefill_s)

    def step(self) -> None:
        self.clock.sleep(next(self.steps))


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def phases_of(clock: FakeClock) -> Callable[[float, Iterable[float]], FakePhases]:
    return partial(FakePhases, clock)
