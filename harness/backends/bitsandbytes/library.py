"""The library bitsandbytes (0.50), and what its 4-bit and 8-bit backends share."""

import warnings
from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import nn

from harness.backends.base import Installed
from harness.backends.layer import LayerRule

OTHER_VALUES = "bitsandbytes dequantizes the codes in place to other values than the layer's"


@cache
def bitsandbytes(module: str) -> Any:
    """Import a module of bitsandbytes, such as `nn`, without its warnings.

    Raises:
        ImportError: It is not installed. Broken installations raise OSError or RuntimeError.
    """
    with warnings.catch_warnings():
        # It decorates a method with torch.jit while it is imported.
        warnings.filterwarnings("ignore", ".*torch.jit", DeprecationWarning)
        return import_module(f"bitsandbytes.{module}")


def unsupported_by_library(
    rules: Sequence[LayerRule],
    device: torch.device,
    unsupported: Callable[[LayerRule], str | None],
) -> str | None:
    """Return why bitsandbytes cannot run rules on a device, or None.

    Args:
        rules: Rules of a recipe.
        device: Where to run.
        unsupported: Returns why a kind of its layers cannot do what a rule says, or None.
    """
    try:
        bitsandbytes("nn")
    # Its binary is loaded on import, and may miss a CUDA library.
    except (ImportError, OSError, RuntimeError) as reason:
        return f"bitsandbytes cannot be imported ({reason}); pip install 'bitsandbytes>=0.50'"
    if device.type not in ("cpu", "cuda"):
        return f"its layers are checked on cpu and cuda only, got {device.type}"
    # Rules come last: their reasons do not matter where the library cannot run at all.
    found = (unsupported(rule) for rule in rules)
    return next((reason for reason in found if reason is not None), None)


def as_installed(made: Any, bias: nn.Parameter | None) -> nn.Module:
    """Return a linear layer of bitsandbytes with the bias of the float one, without gradients."""
    made.bias = bias
    module: nn.Module = made.requires_grad_(False)
    return module


def not_installed(kernel: str, found: object, wanted: str) -> Installed:
    """Return what an audit says of a module that is not the wanted one of bitsandbytes."""
    fault = f"a {type(found).__name__} is in place, not a {wanted} of bitsandbytes"
    return Installed(kernel=kernel, stored_bytes=0, fault=fault)
