"""NVML through a stand-in for pynvml (not run on a GPU yet)."""

import sys
from types import ModuleType
from typing import Any

import pytest
import torch

from harness.machine import energy, settings
from harness.machine.nvml import Gpu, NoNvml

CUDA = torch.device("cuda", 0)


class NVMLError(Exception):
    """As pynvml's."""


class Properties:
    uuid = "12345678-aaaa-bbbb-cccc-1234567890ab"


@pytest.fixture
def pynvml(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module with the functions that are used, of one GPU."""
    made: Any = ModuleType("pynvml")
    made.NVMLError = NVMLError
    made.NVML_CLOCK_SM, made.NVML_CLOCK_MEM = 1, 2
    made.nvmlClocksThrottleReasonGpuIdle = 1
    made.nvmlClocksThrottleReasonSwPowerCap = 4
    made.nvmlClocksThrottleReasonHwThermalSlowdown = 64
    made.nvmlClocksThrottleReasonAll = 0xFF
    made.nvmlClocksThrottleReasonNone = 0
    made.reasons, made.millijoules = 1, 5_000
    made.nvmlInit = lambda: None
    made.nvmlDeviceGetHandleByUUID = lambda uuid: {f"GPU-{Properties.uuid}": "handle"}[uuid]
    made.nvmlDeviceGetTotalEnergyConsumption = lambda handle: made.millijoules
    made.nvmlDeviceGetComputeRunningProcesses = lambda handle: ["us", "them"]
    made.nvmlDeviceGetCurrentClocksThrottleReasons = lambda handle: made.reasons
    made.nvmlSystemGetDriverVersion = lambda: b"580.10"
    made.nvmlDeviceGetEnforcedPowerLimit = lambda handle: 700_000
    made.nvmlDeviceGetClockInfo = lambda handle, kind: {1: 1980, 2: 3201}[kind]
    made.nvmlDeviceGetMaxClockInfo = lambda handle, kind: 1980
    monkeypatch.setitem(sys.modules, "pynvml", made)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Properties)
    return made


def refuse(*_: Any) -> None:
    raise NVMLError("not supported")


def test_a_gpu_is_found_by_its_uuid_and_read(pynvml: Any) -> None:
    gpu = Gpu(CUDA)
    assert gpu.energy_j() == 5.0
    assert gpu.num_processes() == 2
    assert gpu.settings() == {
        "gpu_driver": "580.10",
        "gpu_power_limit_w": "700.0",
        "gpu_sm_clock_mhz": "1980",
        "gpu_sm_clock_max_mhz": "1980",
        "gpu_memory_clock_mhz": "3201",
    }


def test_reasons_of_slow_clocks_are_named_and_idleness_is_none(pynvml: Any) -> None:
    assert Gpu(CUDA).throttled_by() == ()
    pynvml.reasons = 1 | 4 | 64
    assert set(Gpu(CUDA).throttled_by()) == {"SwPowerCap", "HwThermalSlowdown"}
    assert "SwPowerCap" in settings.slowed_by(settings.settings(CUDA))[-1]


def test_what_a_board_does_not_tell_is_absent(pynvml: Any) -> None:
    pynvml.nvmlDeviceGetTotalEnergyConsumption = refuse
    pynvml.nvmlDeviceGetEnforcedPowerLimit = refuse
    gpu = Gpu(CUDA)
    assert gpu.energy_j() is None
    assert "gpu_power_limit_w" not in gpu.settings()
    assert energy.find(CUDA) == (None, "this GPU does not count its energy")


def test_energy_of_a_gpu_is_the_difference_of_two_readings(pynvml: Any) -> None:
    counter, reason = energy.find(CUDA)
    assert counter is not None
    assert reason is None
    before = counter.read()
    pynvml.millijoules += 2_500
    assert counter.read() - before == pytest.approx(2.5)


def test_a_gpu_that_nvml_does_not_know_has_a_reason(pynvml: Any) -> None:
    pynvml.nvmlDeviceGetHandleByUUID = refuse
    with pytest.raises(NoNvml, match="not supported"):
        Gpu(CUDA)
    assert Gpu.find(CUDA) is None


def test_without_the_library_there_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(NoNvml, match="pip install nvidia-ml-py"):
        Gpu(CUDA)
    assert energy.find(CUDA).reason == "pynvml is not installed (pip install nvidia-ml-py)"


def test_a_processor_is_no_gpu() -> None:
    assert Gpu.find(torch.device("cpu")) is None
