"""NVIDIA's management library (NVML), by the optional package `nvidia-ml-py`, imported as `pynvml`.

    pip install nvidia-ml-py

GPUs are looked up by UUID: NVML numbers all GPUs of a machine, torch only the visible ones
(CUDA_VISIBLE_DEVICES).
"""

from collections.abc import Callable
from typing import Any, Self, TypeVar

import torch

Answer = TypeVar("Answer")


def uuid(device: torch.device) -> str | None:
    """Return the UUID of a GPU, the same in every process, or None for a CPU."""
    if device.type != "cuda":
        return None
    return f"GPU-{torch.cuda.get_device_properties(device).uuid}"


class NoNvml(Exception):  # noqa: N818 - a reason, not a failure
    """NVML is not available; the message says why."""


class Gpu:
    """One GPU. Every answer is None if driver or board do not support the question."""

    def __init__(self, device: torch.device) -> None:
        """Find the GPU.

        Raises:
            NoNvml: The library is not installed, or does not find the GPU.
        """
        try:
            import pynvml  # type: ignore[import-not-found]  # noqa: PLC0415 - optional
        except ImportError as reason:
            raise NoNvml("pynvml is not installed (pip install nvidia-ml-py)") from reason
        self._nvml: Any = pynvml
        name = uuid(device)
        try:
            pynvml.nvmlInit()
            self._handle = pynvml.nvmlDeviceGetHandleByUUID(name)
        except pynvml.NVMLError as reason:
            raise NoNvml(f"NVML does not give {name}: {reason}") from reason

    @classmethod
    def find(cls, device: torch.device) -> Self | None:
        """Return the GPU, or None if the device is no GPU or NVML is not available."""
        if device.type != "cuda":
            return None
        try:
            return cls(device)
        except NoNvml:
            return None

    def energy_j(self) -> float | None:
        """Return the energy since the driver was loaded [J]; boards since Volta count it."""
        used = self._ask(lambda: self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle))
        return None if used is None else used / 1e3  # from millijoules

    def num_processes(self) -> int | None:
        """Return the number of processes that compute on the GPU, this one included."""
        found = self._ask(lambda: self._nvml.nvmlDeviceGetComputeRunningProcesses(self._handle))
        return None if found is None else len(found)

    def throttled_by(self) -> tuple[str, ...]:
        """Return why the clocks are reduced, by NVML's names; being idle is no reason."""
        nvml = self._nvml
        bits = self._ask(lambda: nvml.nvmlDeviceGetCurrentClocksThrottleReasons(self._handle)) or 0
        prefix = "nvmlClocksThrottleReason"
        harmless = ("All", "None", "GpuIdle", "ApplicationsClocksSetting", "UserDefinedClocks")
        reasons = {
            name.removeprefix(prefix): getattr(nvml, name)
            for name in dir(nvml)
            if name.startswith(prefix)
        }
        return tuple(name for name, bit in reasons.items() if name not in harmless and bits & bit)

    def settings(self) -> dict[str, str]:
        """Return the settings that decide the speed of the GPU."""
        nvml, handle = self._nvml, self._handle
        asked = {
            "gpu_driver": nvml.nvmlSystemGetDriverVersion,
            "gpu_power_limit_w": lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1e3,
            "gpu_sm_clock_mhz": lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM),
            "gpu_sm_clock_max_mhz": lambda: nvml.nvmlDeviceGetMaxClockInfo(
                handle, nvml.NVML_CLOCK_SM
            ),
            "gpu_memory_clock_mhz": lambda: nvml.nvmlDeviceGetClockInfo(
                handle, nvml.NVML_CLOCK_MEM
            ),
        }
        found = {name: self._ask(question) for name, question in asked.items()}
        found["gpu_throttled_by"] = ", ".join(self.throttled_by()) or None
        return {name: _text(value) for name, value in found.items() if value is not None}

    def _ask(self, question: Callable[[], Answer]) -> Answer | None:
        try:
            return question()
        except self._nvml.NVMLError:
            return None


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
