"""Stacks of experts in 4 bits: packed by bitsandbytes, and dequantized when they are read.

`bitsandbytes.nn.parametrize` replaces a parameter of a module by its packed codes and a
parametrization, which dequantizes at each access. The float module must come back unchanged, so
that the change is made to a twin of it.
"""

from typing import Any

from torch import nn

from harness.backends.base import Installed
from harness.backends.bitsandbytes.library import bitsandbytes, not_installed
from harness.backends.bitsandbytes.packing import inspect_packed, packed_codes, quant_state
from harness.backends.layer import QuantizedLayer
from harness.models.loaded import LoadedModel
from harness.models.targets.targets import Target

STACK_KERNEL = "bitsandbytes.dequantize_4bit"


def pack_stack(loaded: LoadedModel, target: Target, layer: QuantizedLayer) -> None:
    """Put a twin of the module in place, with the stack packed."""
    path = _owner_path(target)
    module = loaded.module.get_submodule(path)
    # A module with two stacks gets one twin, which the first of them makes.
    if module is target.owner:
        module = _twin(target.owner)
        loaded.swap_module(path, module)
    # The packed codes take the name of the stack; the parametrization dequantizes that name.
    packed = nn.Parameter(packed_codes(layer.weight.codes), requires_grad=False)
    setattr(module, target.attribute, packed)
    state = quant_state(layer.weight, loaded.dtype).as_dict()
    bitsandbytes("nn.parametrize").replace_parameter_4bit_prequantized(
        module, target.attribute, state, loaded.device
    )


def inspect_stack(loaded: LoadedModel, target: Target, layer: QuantizedLayer) -> Installed:
    """Compare the packed stack in place with the layer; count what is stored."""
    module = loaded.module.get_submodule(_owner_path(target))
    parametrized: Any = getattr(module, "parametrizations", {})
    if target.attribute not in parametrized:
        return not_installed(STACK_KERNEL, module, "parametrized stack")
    # The first parametrization of the attribute is that of bitsandbytes.
    chain = parametrized[target.attribute]
    state = getattr(chain[0], "quant_state", None)
    return inspect_packed(STACK_KERNEL, chain.original, state, layer, loaded.dtype)


def _owner_path(target: Target) -> str:
    return target.name.removesuffix(f".{target.attribute}")


def _twin(module: nn.Module) -> nn.Module:
    """Return a module with the same parameters and children, to be changed apart from the first."""
    # Without __init__, which would make parameters anew.
    twin: nn.Module = object.__new__(type(module))
    # Dictionaries of parameters, children and hooks are copied; what is in them is shared.
    twin.__dict__.update(
        {
            key: value.copy() if isinstance(value, dict) else value
            for key, value in module.__dict__.items()
        }
    )
    return twin
