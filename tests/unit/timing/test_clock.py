"""The CPU's clock against sleep, the GPU's against stand-ins for CUDA's events."""

import time
from typing import Any

import pytest
import torch

from harness.timing.clock import CpuClock, CudaClock, clock_of


class Stream:
    """Work that a GPU has yet to do, and how long it takes."""

    def __init__(self) -> None:
        self.done_ms = 0.0
        self.waits = 0


class Event:
    """What torch.cuda.Event offers; it is reached when the stream is there."""

    def __init__(self, enable_timing: bool = False) -> None:
        assert enable_timing

    def record(self, stream: Stream) -> None:
        self.at_ms = stream.done_ms

    def elapsed_time(self, end: "Event") -> float:
        return end.at_ms - self.at_ms


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> Stream:
    made = Stream()

    def synchronize(device: Any) -> None:
        assert device == torch.device("cuda", 1)
        made.waits += 1

    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: made)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    return made


def test_cpu_clock_counts_nanoseconds() -> None:
    clock = clock_of(torch.device("cpu"))
    assert isinstance(clock, CpuClock)
    before = clock.now()
    marks = [clock.mark()]
    time.sleep(0.01)
    marks.append(clock.mark())
    assert clock.intervals(marks)[0] >= 9e6
    assert clock.now() - before >= clock.intervals(marks)[0]


def test_gpu_clock_waits_at_the_ends_alone(stream: Stream) -> None:
    clock = clock_of(torch.device("cuda", 1))
    assert isinstance(clock, CudaClock)
    clock.now()
    marks = [clock.mark()]
    for milliseconds in (2.0, 0.5):
        stream.done_ms += milliseconds
        marks.append(clock.mark())
    clock.now()
    assert stream.waits == 2
    assert clock.intervals(marks) == (2_000_000, 500_000)


def test_one_mark_has_no_intervals() -> None:
    assert CpuClock().intervals([5]) == ()
