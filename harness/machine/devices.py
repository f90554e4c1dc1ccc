"""Device selection, and a lock for timed runs."""

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
"""The driver makes this folder if it finds a GPU."""
LOCKS = Path(tempfile.gettempdir())
"""Folder of the lock files of timed runs."""


def choose(name: str) -> torch.device:
    """Return the device of a name: `auto` is the first GPU if there is one, else the CPU.

    Raises:
        ConfigError: The name is invalid, or there is no such device.
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
            f"device must be one of the {count} CUDA devices of this machine, got {name!r}; "
            "use device=cpu"
        )
    return torch.device("cuda", index)


def of_job(number: int) -> str:
    """Return the device of one of several jobs that run at once with device=auto.

    Jobs take turns with the GPUs that this process sees. Ray and Slurm show each job only its own.

    Raises:
        ConfigError: The launcher hides the GPUs, as submitit does without `gpus_per_node`.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count and os.environ.get("CUDA_VISIBLE_DEVICES") == "" and GPUS.is_dir():
        raise ConfigError(
            "hydra.launcher.gpus_per_node must be the number of GPUs of a job with device=auto, "
            "got none on a machine with GPUs; pass hydra.launcher.gpus_per_node=1, or device=cpu"
        )
    return f"cuda:{number % count}" if count else "cpu"


@contextmanager
def exclusive(device: torch.device) -> Iterator[None]:
    """Context manager that waits for the lock for timed runs on a device, and holds it.

    The operating system frees the lock of a process that dies.
    """
    name = uuid(device) or f"{device.type}{device.index or 0}"
    path = LOCKS / f"quant-harness-{name}.lock"
    busy = f"waiting for another timed run on {device} ({path})"
    with locked(path, "TMPDIR", of=LOCKS, busy=busy, mode=0o666):
        yield
