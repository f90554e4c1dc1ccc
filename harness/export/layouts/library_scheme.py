"""Map the formats of a rule to a `QuantizationScheme` of the library compressed-tensors.

A format is mapped by its parts: element, granularity and scale rule. A format without a scheme
raises ValueError, with the reason.
"""

import importlib
from types import ModuleType
from typing import Any

import torch
from torch import nn

from harness.backends.layer import LayerRule
from harness.errors import ConfigError
from harness.export.layouts.layout import ONE_FACTOR, integer_format, unwrapped
from harness.formats.minifloat import Minifloat
from harness.quant.granularity import Granularity
from harness.quant.range import AbsMax
from harness.quant.scale import PowerOfTwoScale
from harness.quant.schemes.affine import Affine
from harness.quant.schemes.block_scaled import BlockScaled
from harness.quant.schemes.nvfp4 import NVFP4Scale
from harness.quant.schemes.shared_exponent import SharedExponent
from harness.quant.tensor import TensorFormat

E4M3_PARTS, E2M1_PARTS, E2M3_PARTS = (4, 3, "nan"), (2, 1, "none"), (2, 3, "none")
"""Exponent bits, mantissa bits and specials of the elements that the library knows."""
MX_BLOCK, NV_BLOCK = (1, 32), (1, 16)


def library(module: str) -> ModuleType:
    """Import a module of the library, which takes a while and is not needed for other layouts."""
    try:
        return importlib.import_module(f"compressed_tensors.{module}".rstrip("."))
    except ImportError as reason:
        raise ConfigError(
            f"layout=compressed_tensors must find the library compressed-tensors, got: {reason}; "
            "install it with pip install compressed-tensors, or choose layout=gptq"
        ) from reason


def library_scheme(rule: LayerRule) -> Any:
    """Return the library's `QuantizationScheme`, with the layout that the library chooses for it.

    Raises:
        ValueError: There is none.
    """
    parts = library("quantization")
    activations = None
    if rule.input is not None:
        arguments = _activation_arguments(rule.input, static=rule.static_input)
        activations = parts.QuantizationArgs(**arguments)
    scheme = parts.QuantizationScheme(
        targets=[],
        weights=parts.QuantizationArgs(**_weight_arguments(rule.weight)),
        input_activations=activations,
    )
    scheme.format = library("compressors.format").infer_module_format(nn.Linear, scheme)
    return scheme


def _weight_arguments(fmt: TensorFormat) -> dict[str, Any]:
    """Return the `QuantizationArgs` of a format.

    Raises:
        ValueError: There are none.
    """
    fmt, name = unwrapped(fmt), fmt.name
    if (found := integer_format(fmt)) is not None:
        arguments = {
            "type": "int",
            "num_bits": found.element.bits,
            **strategy_of(found.granularity),
        }
        if isinstance(found, Affine):
            if arguments["strategy"] not in ("channel", "group"):
                raise ValueError(f"zero points must be per-channel or group-wise, got {name}")
            return arguments | {"symmetric": False}
        return arguments | {"symmetric": True}
    if isinstance(fmt, BlockScaled) and isinstance(fmt.element, Minifloat):
        arguments = _float_arguments(fmt, fmt.element)
        if arguments:
            return arguments | {
                "type": "float",
                "num_bits": fmt.element.bits,
                "symmetric": True,
            }
    raise ValueError(f"{name} is none of them")


def _float_arguments(fmt: BlockScaled, element: Minifloat) -> dict[str, Any]:
    """Return the arguments that distinguish the schemes of small floats; empty if there is none."""
    kind = (element.exponent_bits, element.mantissa_bits, element.specials)
    if fmt.granularity.flat:
        return {}
    is_mx = isinstance(fmt.scale, PowerOfTwoScale | SharedExponent)
    if fmt.granularity.block == MX_BLOCK and kind in (E4M3_PARTS, E2M1_PARTS, E2M3_PARTS) and is_mx:
        return {"strategy": "group", "group_size": 32, "scale_dtype": torch.uint8}
    is_nvfp4 = kind == E2M1_PARTS and isinstance(fmt.scale, NVFP4Scale)
    if is_nvfp4 and fmt.granularity.block == NV_BLOCK:
        return {
            "strategy": "tensor_group",
            "group_size": 16,
            "scale_dtype": torch.float8_e4m3fn,
        }
    if kind == E4M3_PARTS and isinstance(fmt.scale, ONE_FACTOR):
        return strategy_of(fmt.granularity)
    return {}


def strategy_of(granularity: Granularity) -> dict[str, Any]:
    """Return the library's words for a granularity.

    Raises:
        ValueError: It has none.
    """
    rows, columns = granularity.block
    if granularity.flat or ((rows == -1) != (columns == -1) and rows != 1):
        raise ValueError(
            f"blocks must be a tensor, rows, groups in a row, or rectangles, got {granularity.name}"
        )
    if rows == -1:
        return {"strategy": "tensor"}
    if rows > 1:
        return {"strategy": "block", "block_structure": [rows, columns]}
    if columns == -1:
        return {"strategy": "channel"}
    return {"strategy": "group", "group_size": columns}


def _activation_arguments(fmt: TensorFormat, *, static: bool) -> dict[str, Any]:
    """Return the arguments of activations, with static scales or scales fitted at each call."""
    arguments = _weight_arguments(fmt)
    if static:
        if arguments["strategy"] != "tensor" or not arguments["symmetric"]:
            raise ValueError(
                f"static activations must have one scale a layer and no zero point, got {fmt.name}"
            )
        return arguments | {"dynamic": False}
    if not isinstance(getattr(unwrapped(fmt), "range", None), AbsMax):
        raise ValueError(f"activation scales must come from the largest magnitude, got {fmt.name}")
    if arguments["strategy"] == "block":
        raise ValueError(f"activations must not share scales between tokens, got {fmt.name}")
    if arguments["strategy"] == "channel":
        return arguments | {"strategy": "token", "dynamic": True}
    if arguments["strategy"] == "tensor_group":
        scale = getattr(unwrapped(fmt), "scale", None)
        if isinstance(scale, NVFP4Scale) and scale.levels != 1:
            raise ValueError(
                f"the outer scale of NVFP4 activations must be fixed, got {fmt.name}, which fits "
                "one at each call; give the rule input nvfp4_1lvl"
            )
        return arguments | {"dynamic": "local"}
    return arguments | {"dynamic": True}
