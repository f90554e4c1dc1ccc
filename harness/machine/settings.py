"""Settings that decide speed and may change between two runs: clocks, power, firmware.

Sources: `/sys/devices/system/cpu` and `/proc/cpuinfo` on Linux, NVML for NVIDIA's GPUs. A setting
that the system does not show is absent; most virtual machines show none.
"""

from pathlib import Path

import torch

from harness.machine.nvml import Gpu

CPU_FOLDER = Path("/sys/devices/system/cpu")
CPUINFO = Path("/proc/cpuinfo")
FILES = {
    "cpu_governor": "cpu0/cpufreq/scaling_governor",
    "cpu_max_khz": "cpu0/cpufreq/scaling_max_freq",
    "cpu_boost": "cpufreq/boost",
    "cpu_no_turbo": "intel_pstate/no_turbo",
    "cpu_smt": "smt/control",
}
"""Name of a setting -> its file below `CPU_FOLDER`."""


def settings(device: torch.device) -> dict[str, str]:
    """Return every setting that can be read."""
    found = {name: text for name, file in FILES.items() if (text := _read(CPU_FOLDER / file))}
    for line in _read(CPUINFO).splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("microcode", "cpu MHz"):
            found.setdefault("cpu_" + key.strip().removeprefix("cpu ").lower(), value.strip())
    if nodes := len(list((CPU_FOLDER.parent / "node").glob("node[0-9]*"))):
        found["numa_nodes"] = str(nodes)
    gpu = Gpu.find(device)
    return found | (gpu.settings() if gpu else {})


def slowed_by(found: dict[str, str]) -> list[str]:
    """Return warnings for settings that make times vary."""
    governor = found.get("cpu_governor")
    warnings = []
    if governor not in (None, "performance"):
        warnings.append(
            f"the clock governor is {governor}, so the clock follows the load; "
            "set it to performance for steady times"
        )
    if reasons := found.get("gpu_throttled_by"):
        warnings.append(f"the clocks of the GPU are held down by {reasons}")
    return warnings


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
