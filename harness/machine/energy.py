"""Energy counters of CPU and GPU; energy is never estimated from a rated power.

- CPU: RAPL, `/sys/class/powercap/intel-rapl:N/energy_uj` (Linux, Intel and AMD; only root may read
  it since CVE-2020-8694). The counter of a package covers its cores; the counter of its memory
  (`dram`), if there is one, is added. Counters wrap at `max_energy_range_uj`.
- GPU: the total energy of NVML.

Both measure the whole device: idle power and all processes.
"""

from pathlib import Path
from typing import NamedTuple, Protocol

import torch

from harness.machine.nvml import Gpu, NoNvml

POWERCAP = Path("/sys/class/powercap")
LEAST_ENERGY_S = 5.0
"""Least time over which energy is reported: counters update up to ten times a second [s]."""


class Counter(Protocol):
    """A counter of energy; differences of two readings are what a device has used."""

    @property
    def source(self) -> str:
        """Name of the counter."""

    def read(self) -> float:
        """Return the energy since some fixed time in the past [J]."""


class NoCounter(Exception):  # noqa: N818 - a reason, not a failure
    """Energy cannot be read; the message says why."""


class Rapl:
    """RAPL counters of all packages of a machine and of their memory."""

    source = "RAPL, packages and their memory"

    def __init__(self, folder: Path = POWERCAP) -> None:
        """Find the counters.

        Raises:
            NoCounter: There are no counters, or this user may not read them.
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
        """Return the energy since construction [J]; read it before a counter wraps twice."""
        for zone, last in self._last.items():
            now = _number(zone / "energy_uj")
            self._sum += now - last if now >= last else now - last + self._range[zone]
            self._last[zone] = now
        return self._sum / 1e6


class NvmlEnergy:
    """The energy counter of a GPU."""

    source = "NVML, the GPU"

    def __init__(self, device: torch.device) -> None:
        """Find the counter.

        Raises:
            NoCounter: NVML is missing, or this GPU does not count.
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
    """Return the energy counter of a device, or why there is none."""
    try:
        return Found(NvmlEnergy(device) if device.type == "cuda" else Rapl(), None)
    except NoCounter as reason:
        return Found(None, str(reason))


def _is_whole(zone: Path) -> bool:
    """Say whether a zone is a package or its memory, not a part of a package or the platform."""
    try:
        name = (zone / "name").read_text(encoding="utf-8").strip()
    except OSError:
        return False
    return name.startswith("package") or name == "dram"


def _number(file: Path) -> int:
    return int(file.read_text(encoding="utf-8"))
