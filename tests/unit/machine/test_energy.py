"""RAPL counters made of files, and NVML's from a stand-in."""

from pathlib import Path

import pytest
import torch

from harness.machine import energy
from harness.machine.energy import NoCounter, Rapl


class Zone:
    """One counter of the powercap folder."""

    def __init__(self, folder: Path, name: str, zone: str, *, wraps_at: int = 10_000_000) -> None:
        self.folder = folder / zone
        self.folder.mkdir(parents=True)
        (self.folder / "name").write_text(name + "\n")
        (self.folder / "max_energy_range_uj").write_text(f"{wraps_at}\n")
        self.set(0)

    def set(self, microjoules: int) -> None:
        (self.folder / "energy_uj").write_text(f"{microjoules}\n")


def test_packages_and_their_memory_are_added_and_parts_are_not(tmp_path: Path) -> None:
    zones = {
        zone: Zone(tmp_path, name, zone)
        for zone, name in {
            "intel-rapl:0": "package-0",
            "intel-rapl:0:0": "core",  # inside of the package
            "intel-rapl:0:1": "dram",
            "intel-rapl:1": "package-1",
            "intel-rapl:2": "psys",  # the packages and more
        }.items()
    }
    (tmp_path / "intel-rapl").mkdir()
    rapl = Rapl(tmp_path)
    assert rapl.read() == 0
    for index, zone in enumerate(zones.values()):
        zone.set(10**index)
    assert rapl.read() == pytest.approx((1 + 100 + 1000) / 1e6)


def test_a_counter_that_wraps_goes_on(tmp_path: Path) -> None:
    zone = Zone(tmp_path, "package-0", "intel-rapl:0", wraps_at=1_000_000)
    zone.set(900_000)
    rapl = Rapl(tmp_path)
    zone.set(100_000)
    assert rapl.read() == pytest.approx(0.2)
    zone.set(50_000)
    assert rapl.read() == pytest.approx(0.2 + 0.95)
    zone.set(60_000)
    assert rapl.read() == pytest.approx(0.2 + 0.95 + 0.01)


def test_no_counter_has_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NoCounter, match="no RAPL counters"):
        Rapl(tmp_path)
    Zone(tmp_path, "core", "intel-rapl:0:0")
    with pytest.raises(NoCounter, match="no RAPL counters"):
        Rapl(tmp_path)


def test_a_counter_that_may_not_be_read_has_a_reason(tmp_path: Path) -> None:
    zone = Zone(tmp_path, "package-0", "intel-rapl:0")
    (zone.folder / "energy_uj").unlink()
    (zone.folder / "energy_uj").mkdir()  # reading it fails for any user, root too
    with pytest.raises(NoCounter, match="may not be read"):
        Rapl(tmp_path)


def test_what_is_found_is_a_counter_or_a_reason() -> None:
    for device in (torch.device("cpu"), torch.device("cuda", 0)):
        if device.type == "cuda" and torch.cuda.is_available():
            continue
        counter, reason = energy.find(device)
        assert (counter is None) is bool(reason)
