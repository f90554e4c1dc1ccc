"""Time of work that a device does by itself.

A GPU works behind the program: when a call returns, its work has only been queued. `now` waits for the device and is for the ends of a
phase. Between two tokens it would be a cost of its own, so there `mark` leaves an event in the queue, and `gaps` reads the
times when all is done. On a CPU both are `perf_counter_ns`.
"""

import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Protocol

import torch

NS = 1e-9
"""One nanosecond [s]."""


class Clock(Protocol):
    """Time as a device sees it. What a mark is is its own business."""

    def now(self) -> int:
        """Wait for the device, and return the time [ns]."""

    def mark(self) -> Any:
        """Remember this place in the work of the device, without waiting."""

    def gaps(self, marks: Sequence[Any]) -> tuple[int, ...]:
        """Return the time from each mark to the next [ns]; the device is done."""


class CpuClock:
    """Work is done when the call returns."""

    def now(self) -> int:
        """Return the time [ns]."""
        return time.perf_counter_ns()

    mark = now

    def gaps(self, marks: Sequence[int]) -> tuple[int, ...]:
        """Return the differences."""
        return tuple(after - before for before, after in pairwise(marks))


class CudaClock:
    """Events in the current stream of a GPU."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def now(self) -> int:
        """Wait for the GPU, and return the time [ns]."""
        torch.cuda.synchronize(self._device)
        return time.perf_counter_ns()

    def mark(self) -> torch.cuda.Event:
        """Put an event behind the work that is queued."""
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return event

    def gaps(self, marks: Sequence[torch.cuda.Event]) -> tuple[int, ...]:
        """Return the differences; events count in microseconds at best."""
        return tuple(
            round(before.elapsed_time(after) * 1e6)  # from milliseconds
            for before, after in pairwise(marks)
        )


def clock_of(device: torch.device) -> Clock:
    """Return the clock of a device."""
    return CudaClock(device) if device.type == "cuda" else CpuClock()
