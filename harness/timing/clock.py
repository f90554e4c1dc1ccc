"""Clocks: the time of work that a device does by itself.

A GPU works behind the program: when a call returns, its work is only queued. `now` waits for the
device and marks the ends of a phase. Between two tokens the wait would itself cost time, so `mark`
only leaves an event in the queue, and `intervals` reads the times when all work is done. On a CPU,
work is done when the call returns, and both read `perf_counter_ns`.
"""

import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Protocol

import torch

NS = 1e-9
"""One nanosecond [s]."""


class Clock(Protocol):
    """A clock for one device.

    `mark` returns an opaque token; `intervals` turns a list of them into times.
    """

    def now(self) -> int:
        """Wait for the device and return the time [ns]."""

    def mark(self) -> Any:
        """Return a token for this place in the device's queue, without waiting."""

    def intervals(self, marks: Sequence[Any]) -> tuple[int, ...]:
        """Return the time from each mark to the next [ns]; the device must be done."""


class CpuClock:
    """A clock for the CPU; a mark is a time."""

    def now(self) -> int:
        """Return the time [ns]."""
        return time.perf_counter_ns()

    mark = now

    def intervals(self, marks: Sequence[int]) -> tuple[int, ...]:
        """Return the differences [ns]."""
        return tuple(after - before for before, after in pairwise(marks))


class CudaClock:
    """A clock for a GPU; a mark is an event in its current stream."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def now(self) -> int:
        """Wait for the GPU and return the time [ns]."""
        torch.cuda.synchronize(self._device)
        return time.perf_counter_ns()

    def mark(self) -> torch.cuda.Event:
        """Return an event behind the queued work."""
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return event

    def intervals(self, marks: Sequence[torch.cuda.Event]) -> tuple[int, ...]:
        """Return the differences [ns]; the resolution of events is about a microsecond."""
        return tuple(
            round(before.elapsed_time(after) * 1e6)  # from milliseconds
            for before, after in pairwise(marks)
        )


def clock_of(device: torch.device) -> Clock:
    """Return the clock of a device."""
    return CudaClock(device) if device.type == "cuda" else CpuClock()
