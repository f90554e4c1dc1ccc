"""Peak memory against the size of what was allocated."""

import sys
from pathlib import Path

import pytest
import torch

from harness.machine import memory

CPU = torch.device("cpu")
SIZE = 200 * 2**20

linux = pytest.mark.skipif(sys.platform != "linux", reason="the kernel of Linux is asked")


@linux
def test_peak_holds_what_was_freed_again_and_is_counted_anew() -> None:
    since = memory.reset(CPU)
    before = memory.peak(CPU, since).process_bytes
    held = torch.ones(SIZE // 4)
    del held
    after = memory.peak(CPU, since)
    again = memory.peak(CPU, memory.reset(CPU)).process_bytes
    assert before is not None
    assert again is not None
    assert after.process_bytes is not None
    assert after.process_bytes - before == pytest.approx(SIZE, rel=0.1)
    assert again < after.process_bytes - SIZE / 2
    assert after.since == "run"
    assert after.device_bytes is None


def test_kernel_that_does_not_count_anew_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(memory, "CLEAR_REFS", tmp_path / "none" / "clear_refs")
    monkeypatch.setattr(memory, "STATUS", tmp_path / "status")
    found = memory.peak(CPU, memory.reset(CPU))
    assert (found.since, found.process_bytes) == ("process", None)


@pytest.mark.gpu
def test_peak_of_a_gpu_is_that_of_the_allocator() -> None:
    device = torch.device("cuda:0")
    since = memory.reset(device)
    before = torch.cuda.memory_allocated(device)
    held = torch.ones(SIZE // 4, device=device)
    del held
    found = memory.peak(device, since).device_bytes
    assert found is not None
    assert found - before == pytest.approx(SIZE, rel=0.01)
