"""Load by other processes during a timed run.

Other processes disturb a measurement by the time they take from its processors. `LoadWatch`
measures this time over the processors that this process may run on: busy time (`/proc/stat`,
proc(5)) less the time of this process. A load average is no substitute: it includes this process,
covers minutes, and ignores affinity. Time that the hypervisor gives to another virtual machine
(steal) is reported apart. On a GPU, other processes are counted.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from harness.machine.nvml import Gpu

STAT = Path("/proc/stat")
MOST_SHARE = 0.05
"""Share of the processors' time that others may take without a warning."""


class _Ticks(NamedTuple):
    """Time of processors since the machine started [clock tick]."""

    total: int
    idle: int
    """Waiting for disks included."""
    steal: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """Shares of the time of this process's processors."""

    others: float
    """Taken by other processes."""
    steal: float
    """Taken by other virtual machines."""


class LoadWatch:
    """Measures the load by others from construction on."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._before = _ticks()
        self._own_before = _own_s()

    def load(self) -> Load | None:
        """Return the load since construction, or None where the system does not tell."""
        now, before = _ticks(), self._before
        if now is None or before is None or now.total <= before.total:
            return None
        total = now.total - before.total
        steal = (now.steal - before.steal) / total
        busy = 1.0 - (now.idle - before.idle) / total - steal
        own = (_own_s() - self._own_before) * os.sysconf("SC_CLK_TCK") / total
        return Load(others=max(0.0, busy - own), steal=max(0.0, steal))

    def warnings(self) -> list[str]:
        """Return warnings about the load since construction."""
        found, load = [], self.load()
        if load is None:
            found.append("the load by other processes is not known: this system does not report it")
        elif max(load.others, load.steal) > MOST_SHARE:
            found.append(
                f"the machine was busy: other processes took {load.others:.0%} of the processors' "
                f"time, other virtual machines {load.steal:.0%}; repeat it on an idle machine"
            )
        gpu = Gpu.find(self._device)
        if gpu and (count := gpu.num_processes() or 1) > 1:
            found.append(
                f"{count - 1} other processes compute on the GPU; repeat it on an idle one"
            )
        return found


def _ticks() -> _Ticks | None:
    """Return the sums over the processors of this process, or None where they are not known."""
    try:
        lines = STAT.read_text(encoding="utf-8").splitlines()
        ours = {f"cpu{index}" for index in os.sched_getaffinity(0)}
    except (OSError, AttributeError):  # not Linux
        return None
    rows = [line.split() for line in lines]
    # Columns: user nice system idle iowait irq softirq steal. Guest time is part of user time.
    counts = [[int(x) for x in row[1:9]] for row in rows if row and row[0] in ours]
    if not counts:
        return None
    sums = [sum(column) for column in zip(*counts, strict=True)]
    return _Ticks(total=sum(sums), idle=sums[3] + sums[4], steal=sums[7])


def _own_s() -> float:
    """Return the processor time of this process and its children [s]."""
    return sum(os.times()[:4])
