"""Our own 8-bit linear layers, on the products that torch brings: see `harness.backends.scaled_mm.layers`.

They hold the very codes and scales of the fake path, so the weights are equal bit for bit; what differs is where sums are
rounded. A fake-quantized bfloat16 model rounds `scale * code` of the input to bfloat16 before it multiplies, a real one
does not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import ClassVar, Literal

import torch
from torch import Tensor

from harness.backends.base import ROUNDING, Installed, install
from harness.backends.layer import LayerRule, QuantizedLayer
from harness.backends.scaled_mm.layers import (
    Float8Linear,
    Int8Linear,
    Int8WeightLinear,
    StoredLinear,
    WeightOnlyLinear,
    overflow,
)
from harness.errors import UnsupportedRecipe
from harness.formats.integer import Integer
from harness.formats.minifloat import Minifloat
from harness.models.loaded import LoadedModel
from harness.models.targets.targets import Target
from harness.quant.range import AbsMax
from harness.quant.scale import FloatScale
from harness.quant.schemes.block_scaled import BlockScaled
from harness.quant.tensor import TensorFormat

CODES = {
    "int8": torch.int8,
    "int8_full": torch.int8,
    "fp8_e4m3fn": torch.float8_e4m3fn,
    "fp8_e5m2": torch.float8_e5m2,
}
"""Element formats, by the torch type of their codes."""
WHOLE = ("row", "tensor")
FP8_CAPABILITY = (8, 9)
"""Oldest CUDA capability with FP8 products."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScaledMMBackend:
    """INT8 and FP8 weights, alone or with inputs of the same element; see `Backend`."""

    name: ClassVar[str] = "scaled_mm"
    kind: ClassVar[Literal["real"]] = "real"
    tolerance: ClassVar[Mapping[str, float]] = ROUNDING

    def supports(self, rules: Sequence[LayerRule], device: torch.device) -> str | None:
        """Name the first rule that has no product here."""
        reasons = (_refused(rule, device) for rule in rules)
        return next((reason for reason in reasons if reason), None)

    def apply(self, loaded: LoadedModel, target: Target, layer: QuantizedLayer) -> None:
        """Put a layer that keeps the codes in the place of the float one."""
        linear = target.linear
        if linear is None:
            raise UnsupportedRecipe(
                f"a layer must be linear to be multiplied in low precision, got {target.name} in "
                f"{type(target.owner).__name__}; add it to quant.skip"
            )
        n, k = layer.weight.shape
        if loaded.device.type == "cuda" and layer.input is not None and (n % 16 or k % 16):
            raise UnsupportedRecipe(
                f"sizes must be multiples of 16 for 8-bit products on CUDA, got {n} x {k} of {target.name}; "
                "add it to quant.skip"
            )
        install(loaded, target, _module(layer, linear.bias, loaded.device))

    def inspect(self, loaded: LoadedModel, target: Target, layer: QuantizedLayer) -> Installed:
        """Compare what the layer in place multiplies with with the codes, bit for bit."""
        found = loaded.module.get_submodule(target.name)
        if not isinstance(found, StoredLinear):
            other = f"a {type(found).__name__} in place"
            return Installed(kernel="unknown", stored_bytes=0, fault=other)
        fault = None
        if not torch.equal(found.dequantize(), layer.weight.dequantize()):
            fault = "codes and scales in place stand for other values"
        elif not _same(getattr(found, "input_scale", None), _static_scale(layer)):
            fault = "another scale of the input in place"
        return Installed(kernel=str(found.kernel), stored_bytes=found.stored_bytes, fault=fault)


def _refused(rule: LayerRule, device: torch.device) -> str | None:
    weight, given = rule.weight, rule.input
    code = CODES.get(weight.element.name)
    if code is None or not _is_symmetric(weight):
        return f"it multiplies {', '.join(CODES)} without zero points, got weights in {weight.name}"
    if given is None:
        return None
    if weight.granularity.name not in WHOLE or not _is_plain(given, weight):
        return (
            "weights and inputs must have the same element, with one scale a row or a tensor (absmax / max), to be "
            f"multiplied, got {weight.name} and {given.name}"
        )
    if code is torch.int8:
        return _overflow(device)
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < FP8_CAPABILITY:
        return (
            f"FP8 products need CUDA capability 8.9, got {torch.cuda.get_device_capability(device)}"
        )
    return None


def _is_symmetric(fmt: TensorFormat) -> bool:
    return isinstance(fmt, BlockScaled) and not fmt.granularity.flat


def _is_plain(given: TensorFormat, weight: TensorFormat) -> bool:
    """Say whether an input format is the one that the layers compute."""
    return (
        isinstance(given, BlockScaled)
        and given.element == weight.element
        and given.granularity.name in WHOLE
        and given.scale == FloatScale()
        and given.range == AbsMax()
        and (isinstance(given.element, Minifloat) or given.element == Integer(bits=8))
    )


def _has_product(weight: TensorFormat, device: torch.device) -> bool:
    """Say whether weight-only matmuls run on integers: on CPUs where these are exact and faster than 16-bit floats."""
    return (
        CODES[weight.element.name] is torch.int8
        and weight.granularity.name in WHOLE
        and device.type == "cpu"
        and _overflow(device) is None
    )


@cache
def _overflow(device: torch.device) -> str | None:
    return overflow(device)


def _module(layer: QuantizedLayer, bias: Tensor | None, device: torch.device) -> StoredLinear:
    weight, code = layer.weight, CODES[layer.format.element.name]
    if layer.input is None:
        kind = Int8WeightLinear if _has_product(layer.format, device) else WeightOnlyLinear
        return kind(weight, bias, code)
    product = Int8Linear if code is torch.int8 else Float8Linear
    per: Literal["token", "tensor"] = "token" if layer.input.granularity.name == "row" else "tensor"
    return product(weight, bias, code, _static_scale(layer), per=per)


def _static_scale(layer: QuantizedLayer) -> Tensor | None:
    """Return the one scale `[1, 1]` of all inputs, if it is static."""
    return None if layer.input_scales is None else layer.input_scales.combined().values.view(1, 1)


def _same(found: Tensor | None, wanted: Tensor | None) -> bool:
    if found is None or wanted is None:
        return found is wanted
    return torch.equal(found, wanted)
