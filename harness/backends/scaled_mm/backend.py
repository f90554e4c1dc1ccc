"""The backend of our own INT8 and FP8 layers: which layer a rule gets, and the audit of it.

The layers hold the codes and scales of the fake path, so that weights are equal bit for bit. What
differs is where sums are rounded: a fake-quantized bfloat16 model rounds `scale * code` of an
activation to bfloat16 before it multiplies, a real one does not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from harness.backends.base import MATMUL_TOLERANCE, Installed, install
from harness.backends.int8_matmul import saturation
from harness.backends.layer import LayerRule, QuantizedLayer
from harness.backends.scaled_mm.int8_weight import Int8WeightLinear
from harness.backends.scaled_mm.stored_linear import CODE_TYPES, StoredLinear, WeightOnlyLinear
from harness.backends.scaled_mm.w8a8 import Float8Linear, Int8Linear
from harness.errors import UnsupportedRecipe
from harness.formats.integer import Integer
from harness.models.loaded import LoadedModel
from harness.models.targets.targets import Target
from harness.quant.schemes.block_scaled import BlockScaled
from harness.quant.tensor import TensorFormat

WHOLE = ("row", "tensor")
"""Granularities whose scales can be applied to finished sums: one per channel (token), or one."""
FP8_CAPABILITY = (8, 9)
"""Oldest CUDA capability with FP8 matmuls."""
CUDA_MULTIPLE = 16
"""8-bit matmuls of CUDA take sizes that are multiples of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScaledMMBackend:
    """INT8 and FP8 weights, alone or with activations of the same element; see `Backend`."""

    name: ClassVar[str] = "scaled_mm"
    kind: ClassVar[Literal["real"]] = "real"
    tolerance: ClassVar[Mapping[str, float]] = MATMUL_TOLERANCE

    def supports(self, rules: Sequence[LayerRule], device: torch.device) -> str | None:
        """Return why the first unsupported rule has no matmul here, or None."""
        reasons = (_unsupported(rule, device) for rule in rules)
        return next((reason for reason in reasons if reason), None)

    def apply(self, loaded: LoadedModel, target: Target, layer: QuantizedLayer) -> None:
        """Put a layer that keeps the codes in the place of the float one."""
        linear = target.linear
        if linear is None:
            raise UnsupportedRecipe(
                f"a layer must be linear to be multiplied in low precision, got {target.name} in "
                f"{type(target.owner).__name__}; add it to quant.skip"
            )
        # Weight-only layers multiply floats, which take every size.
        n, k = layer.weight.shape
        on_cuda = loaded.device.type == "cuda"
        if on_cuda and layer.input is not None and (n % CUDA_MULTIPLE or k % CUDA_MULTIPLE):
            raise UnsupportedRecipe(
                f"sizes must be multiples of {CUDA_MULTIPLE} for 8-bit matmuls on CUDA, got "
                f"{n} x {k} of {target.name}; add it to quant.skip"
            )
        install(loaded, target, _made(layer, linear.bias, loaded.device))

    def inspect(self, loaded: LoadedModel, target: Target, layer: QuantizedLayer) -> Installed:
        """Compare the dequantized weight in place, and a static scale, bit for bit."""
        found = loaded.module.get_submodule(target.name)
        if not isinstance(found, StoredLinear):
            other = f"a {type(found).__name__} in place"
            return Installed(kernel="unknown", stored_bytes=0, fault=other)
        # Values instead of codes: they show a wrong scale as well.
        fault = None
        if not torch.equal(found.dequantize(), layer.weight.dequantize()):
            fault = "codes and scales in place stand for other values"
        elif not _same(getattr(found, "static_scale", None), _static_scale(layer)):
            fault = "another static scale of the activation in place"
        return Installed(kernel=found.kernel, stored_bytes=found.stored_bytes, fault=fault)


def _unsupported(rule: LayerRule, device: torch.device) -> str | None:
    """Return why no layer computes what a rule says on a device, or None."""
    weight, activation = rule.weight, rule.input
    code = CODE_TYPES.get(weight.element.name)
    # No zero point, and scales that belong to rows of the matrix.
    symmetric = isinstance(weight, BlockScaled) and not weight.granularity.flat
    if code is None or not symmetric:
        return (
            f"it multiplies {', '.join(CODE_TYPES)} without zero points, "
            f"got weights in {weight.name}"
        )
    if activation is None:
        return None
    if weight.granularity.name not in WHOLE or not _is_computed(activation, weight):
        return (
            "weights and activations must have the same element, each with per-channel (per-token) "
            "or per-tensor scales (absmax / max), to be multiplied, "
            f"got {weight.name} and {activation.name}"
        )
    # INT8: does this processor sum exactly? FP8: has this GPU the matmul? CPUs have it.
    if code is torch.int8:
        return saturation(device)
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        if capability < FP8_CAPABILITY:
            return f"FP8 matmuls need CUDA capability 8.9, got {capability}"
    return None


def _is_computed(activation: TensorFormat, weight: TensorFormat) -> bool:
    """Say whether `Int8Linear.quantize_activation` rounds to this format."""
    # Absmax over max, float32 scales, division: the defaults of a block-scaled format.
    plain = BlockScaled(element=weight.element, granularity=activation.granularity)
    full = Integer(bits=8, narrow=False)  # has codes of -128, which are never made
    return activation == plain and plain.granularity.name in WHOLE and plain.element != full


def _made(layer: QuantizedLayer, bias: Tensor | None, device: torch.device) -> StoredLinear:
    """Return the layer that multiplies a quantized weight."""
    weight = layer.weight
    is_int8 = CODE_TYPES[weight.element.name] is torch.int8
    if layer.input is not None:
        kind = Int8Linear if is_int8 else Float8Linear
        per_token = layer.input.granularity.name == "row"
        return kind(weight, bias, per_token=per_token, static_scale=_static_scale(layer))
    # Digits pay on CPUs, where an exact INT8 matmul is faster than one of 16-bit floats.
    takes_digits = (
        is_int8
        and layer.format.granularity.name in WHOLE
        and device.type == "cpu"
        and saturation(device) is None
    )
    return Int8WeightLinear(weight, bias) if takes_digits else WeightOnlyLinear(weight, bias)


def _static_scale(layer: QuantizedLayer) -> Tensor | None:
    """Return the one scale `[1, 1]` of all activations, if it is static."""
    return None if layer.input_scales is None else layer.input_scales.combined().values.view(1, 1)


def _same(found: Tensor | None, wanted: Tensor | None) -> bool:
    if found is None or wanted is None:
        return found is wanted
    return torch.equal(found, wanted)
