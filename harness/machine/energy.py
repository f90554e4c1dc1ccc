"""Energy that a processor or a GPU has used, as its own counter says; never a guess from a rated power.

CPU: RAPL, `/sys/class/powercap/intel-rapl:N/energy_uj` (Linux, Intel and AMD; readable by root since CVE-2020-8694). The counter of
a package holds its cores; that of its memory (`dram`) is beside it where there is one, and is added. Counters wrap at
`max_energy_range_uj`. GPU: NVML's total energy. Both are of the whole device, idle power included, whoever uses it.
"""

from pathlib import Path
from typing import NamedTuple, Protocol

import torch

from harness.machine.nvml import Gpu, NoNvml

POWERCAP = Path("/sys/class/powercap")
LEAST_S = 5.0
"""Shortest time over which energy is reported: counters are updated up to ten times a second [s]."""


class Counter(Protocol):
    """Energy since some time in the past."""

    @property
    def source(self) -> str:
        """Where it comes from."""

    def read(self) -> float:
        """Return the energy so far [J]."""


class NoCounter(Exception):  # noqa: N818 - a reason, not a failure
    """Energy cannot be read; the message says why."""


class Rapl:
    """Counters of the packages of a machine and of their memory."""

    source = "RAPL, packages and their memory"

    def __init__(self, folder: Path = POWERCAP) -> None:
        """Find the counters.

        Raises:
            NoCounter: There are none, or they may not be read.
        """
        found = [zone for zone in sorted(folder.glob("*-rapl:*")) if _is_whole(zone)]
        if not found:
            raise NoCounter(f"this system has no RAPL counters in {folder}")
        try:
            self._last = {zone: _number(zone / "energy_uj") for zone in found}
            self._range = {zone: _number(zone / "max_energy_range_uj") for zone in found}
        except OSError as reason:
            raise NoCounter(f"RAPL counters may not be read here ({reason})") from reason
        self._sum = 0

    def read(self) -> float:
        """Return the energy since it was made [J]; it must be read before a counter has wrapped twice."""
        for zone, last in self._last.items():
            now = _number(zone / "energy_uj")
            self._sum += now - last if now >= last else now - last + self._range[zone]
            self._last[zone] = now
        return self._sum / 1e6


class NvmlEnergy:
    """The counter of a GPU."""

    source = "NVML, the GPU"

    def __init__(self, device: torch.device) -> None:
        """Find the counter.

        Raises:
            NoCounter: It cannot be read.
        """
        try:
            self._gpu = Gpu(device)
        except NoNvml as reason:
            raise NoCounter(str(reason)) from reason
        if self._gpu.energy_j() is None:
            raise NoCounter("this GPU does not count its energy")

    def read(self) -> float:
        """Return the energy since the driver was loaded [J]."""
        used = self._gpu.energy_j()
        if used is None:
            raise NoCounter("the GPU has stopped counting its energy")
        return used


class Found(NamedTuple):
    """The energy counter of a device, or why there is none."""

    counter: Counter | None
    reason: str | None


def find(device: torch.device) -> Found:
    """Look for the energy counter of a device."""
    try:
        return Found(NvmlEnergy(device) if device.type == "cuda" else Rapl(), None)
    except NoCounter as reason:
        return Found(None, str(reason))


def _is_whole(zone: Path) -> bool:
    """Say whether a zone is a package or its memory: not a part of a package, nor all of them and more (`psys`)."""
    try:
        name = (zone / "name").read_text(encoding="utf-8").strip()
    except OSError:
        return False
    return name.startswith("package") or name == "dram"


def _number(file: Path) -> int:
    return int(file.read_text(encoding="utf-8"))
