"""Settings of the machine, from files like those of Linux."""

from pathlib import Path

import pytest
import torch

from harness.machine import settings as module
from harness.machine.settings import settings, slowed_by

CPU = torch.device("cpu")


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cpu"
    (folder / "cpu0" / "cpufreq").mkdir(parents=True)
    (folder / "cpu0" / "cpufreq" / "scaling_governor").write_text("powersave\n")
    (folder / "intel_pstate").mkdir()
    (folder / "intel_pstate" / "no_turbo").write_text("0\n")
    for node in ("node0", "node1"):
        (tmp_path / "node" / node).mkdir(parents=True)
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("cpu MHz\t\t: 2300.1\nmicrocode\t: 0x2b\n\nmicrocode\t: 0x99\n")
    monkeypatch.setattr(module, "CPU_FOLDER", folder)
    monkeypatch.setattr(module, "CPUINFO", cpuinfo)
    return tmp_path


def test_what_can_be_read_is_there_and_nothing_else(system: Path) -> None:
    assert settings(CPU) == {
        "cpu_governor": "powersave",
        "cpu_no_turbo": "0",
        "cpu_mhz": "2300.1",
        "cpu_microcode": "0x2b",
        "numa_nodes": "2",
    }


def test_a_machine_that_shows_nothing_has_no_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CPU_FOLDER", tmp_path / "none" / "cpu")
    monkeypatch.setattr(module, "CPUINFO", tmp_path / "none" / "cpuinfo")
    assert settings(CPU) == {}
    assert slowed_by({}) == []


def test_a_clock_that_follows_the_load_is_warned_of(system: Path) -> None:
    assert "governor is powersave" in slowed_by(settings(CPU))[0]
    assert slowed_by({"cpu_governor": "performance"}) == []
