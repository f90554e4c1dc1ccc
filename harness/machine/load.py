"""Who else used the machine while something was timed.

What disturbs is the time that others take from *our* processors while we measure, so that is counted: over the processors that
this process may run on, the time that was not idle (`/proc/stat`, proc(5)) less the time of this process. A load average
says less: it counts this process too, looks minutes back, and knows nothing of affinity. Time that the hypervisor gave to
another machine (steal) is counted apart. On a GPU, other processes are counted.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from harness.machine.nvml import Gpu

STAT = Path("/proc/stat")
MOST_SHARE = 0.05
"""Share of the processors' time that others may take before a run is marked."""


class _Ticks(NamedTuple):
    """Time that processors have spent since the machine started [clock tick]."""

    total: int
    idle: int
    """With waiting for disks."""
    steal: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """What others took, as shares of the time of our processors."""

    others: float
    steal: float


class Watch:
    """Counts from when it is made."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._before = _ticks()
        self._own_before = _own_s()

    def load(self) -> Load | None:
        """Return the load since then, or None where the system does not tell."""
        now, before = _ticks(), self._before
        if now is None or before is None or now.total <= before.total:
            return None
        total = now.total - before.total
        steal = (now.steal - before.steal) / total
        busy = 1.0 - (now.idle - before.idle) / total - steal
        own = (_own_s() - self._own_before) * os.sysconf("SC_CLK_TCK") / total
        return Load(others=max(0.0, busy - own), steal=max(0.0, steal))

    def warnings(self) -> list[str]:
        """Return what a reader should know of the load since then."""
        found, load = [], self.load()
        if load is None:
            found.append(
                "whether others used the processors meanwhile cannot be seen on this system"
            )
        elif max(load.others, load.steal) > MOST_SHARE:
            found.append(
                f"the machine was busy: other processes took {load.others:.0%} of the time of the processors meanwhile, "
                f"other virtual machines {load.steal:.0%}; repeat it on an idle machine"
            )
        gpu = Gpu.find(self._device)
        if gpu and (count := gpu.num_processes() or 1) > 1:
            found.append(
                f"{count - 1} other processes compute on the GPU; repeat it on an idle one"
            )
        return found


def _ticks() -> _Ticks | None:
    """Return the sum over the processors this process may run on, or None where it cannot be known."""
    try:
        lines = STAT.read_text(encoding="utf-8").splitlines()
        ours = {f"cpu{index}" for index in os.sched_getaffinity(0)}
    except (OSError, AttributeError):  # not Linux
        return None
    rows = [line.split() for line in lines]
    # user nice system idle iowait irq softirq steal; guest time is in user already
    counts = [[int(x) for x in row[1:9]] for row in rows if row and row[0] in ours]
    if not counts:
        return None
    sums = [sum(column) for column in zip(*counts, strict=True)]
    return _Ticks(total=sum(sums), idle=sums[3] + sums[4], steal=sums[7])


def _own_s() -> float:
    """Return the processor time of this process and its children [s]."""
    return sum(os.times()[:4])
