"""The library torchao (0.18): importing it, and the devices that its kernels need."""

import importlib
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType

import torch

INSTALL = "install torchao 0.18 (see constraints.txt)"
"""What to do where torchao is another than the one that was read."""


@cache
def torchao(module: str) -> ModuleType:
    """Import a module of torchao, such as `quantization`.

    Raises:
        ImportError: torchao is not installed.
    """
    with _quietly():
        return importlib.import_module(f"torchao.{module}")


@contextmanager
def _quietly() -> Iterator[None]:
    """Suppress warnings about libraries for other machines, and about enums."""
    # Whatever was switched off before stays off afterwards.
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def not_importable() -> str | None:
    """Return why torchao cannot be imported, or None."""
    try:
        torchao("quantization")
    except ImportError as reason:
        return f"torchao cannot be imported ({reason}); pip install 'torchao>=0.18'"
    return None


def needs_capability(device: torch.device, least: tuple[int, int], matmuls: str) -> str | None:
    """Return why a device is too old for a kernel, or None.

    Args:
        device: Where to run.
        least: Least CUDA capability, such as (8, 9).
        matmuls: The kernel in words, such as `FP8 matmuls`.
    """
    wanted = f"{matmuls} need a CUDA device of capability {least[0]}.{least[1]} or more"
    if device.type != "cuda":
        return f"{wanted}, got {device.type}"
    major, minor = torch.cuda.get_device_capability(device)
    return None if (major, minor) >= least else f"{wanted}, got {major}.{minor}"
