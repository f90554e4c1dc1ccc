"""Peak memory of a run: of the process by the kernel, of the GPU by torch's allocator."""

from pathlib import Path
from typing import Literal

import torch

from harness.results.record import PeakMemory

CLEAR_REFS = Path("/proc/self/clear_refs")
STATUS = Path("/proc/self/status")
RESET_PEAK = "5"
"""Written to `clear_refs`, this resets the peak of resident memory (proc(5))."""

Since = Literal["run", "process"]


def reset(device: torch.device) -> Since:
    """Reset the peaks, so that a run of a sweep does not report the peak of the run before.

    Returns:
        What `peak` then measures: the peak since this call, or since the process began where the
        system allows no reset.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    try:
        CLEAR_REFS.write_text(RESET_PEAK)
    except OSError:  # not Linux, or a container that forbids it
        return "process"
    return "run"


def peak(device: torch.device, since: Since) -> PeakMemory:
    """Return the peaks since `reset`; null where the system does not report them."""
    try:
        fields = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
        process = int(fields["VmHWM"].removesuffix("kB")) * 1024
    except (OSError, KeyError):
        process = None
    allocated = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    return PeakMemory(process_bytes=process, since=since, device_bytes=allocated)
