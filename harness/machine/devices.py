"""Which device a run uses, and how a timed run has it to itself."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from harness.errors import ConfigError
from harness.machine.nvml import uuid
from harness.output.lock import locked

GPUS = Path("/proc/driver/nvidia/gpus")
"""There is a folder of this name where the driver found a GPU."""
LOCKS = Path(tempfile.gettempdir())
"""Where timed runs of this machine lock a device."""


def choose(name: str) -> torch.device:
    """Return the device of a name: `auto` is the first GPU if there is one, else the CPU.

    Raises:
        ConfigError: The name means nothing, or the device is not there; nothing else is taken instead.
    """
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as reason:
        raise ConfigError(f"device must be auto, cpu, cuda or cuda:N, got {name!r}") from reason
    if device.type == "cpu":
        return torch.device("cpu")
    if device.type != "cuda":
        raise ConfigError(f"device must be auto, cpu, cuda or cuda:N, got {name!r}")
    count = torch.cuda.device_count()
    index = device.index or 0
    if index >= count:
        raise ConfigError(
            f"device must be one that is there, got {name!r} with {count} CUDA devices; use device=cpu"
        )
    return torch.device("cuda", index)


def of_job(number: int) -> str:
    """Return the device of a job that runs beside others, where `auto` would give all of them the first GPU.

    Jobs take the GPUs that this process sees in turn. Ray and Slurm show each job its own.

    Raises:
        ConfigError: The launcher hides the GPUs of this machine, as submitit does unless it is told how many a job needs.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count and os.environ.get("CUDA_VISIBLE_DEVICES") == "" and GPUS.is_dir():
        raise ConfigError(
            "hydra.launcher.gpus_per_node must say how many GPUs a job needs with device=auto, got none on a machine that has some; "
            "pass hydra.launcher.gpus_per_node=1, or device=cpu"
        )
    return f"cuda:{number % count}" if count else "cpu"


@contextmanager
def exclusive(device: torch.device) -> Iterator[None]:
    """Be the only timed run on a device of this machine, waiting for another to end; the system frees the lock of a dead process."""
    name = uuid(device) or f"{device.type}{device.index or 0}"
    path = LOCKS / f"quant-harness-{name}.lock"
    busy = f"waiting for another timed run on {device} ({path})"
    with locked(path, "TMPDIR", of=LOCKS, busy=busy, mode=0o666):
        yield
