"""Which weight tensor of torchao (0.18) a rule gets on a device, or why there is none.

Codes and scales are ours (`packing`), so that the fake and the real model have the same weights.
torchao itself would choose a little differently:

    INT8   s = max(absmax / 127.5, 2^-23), codes -128..127, x * (1 / s)   ours: absmax / 127, x / s
    INT4   a float zero for each group, codes 0..15                       ours: zero 0, codes -7..7
    FP8    s = absmax / max without a floor: a row of zeros is NaN        ours: s >= 2^-126
    all    s has the precision of the weight's type, 8 bits in bfloat16   ours: float32

Activations of an INT8 or FP8 matmul are rounded by torchao at each call. Their format in a recipe
must be torchao's own, `TorchaoInput`.
"""

from collections.abc import Sequence

import torch

from harness.backends.layer import LayerRule
from harness.backends.torchao.float_tensors import float_tensor
from harness.backends.torchao.integer_tensors import integer_tensor
from harness.backends.torchao.library import not_importable
from harness.backends.torchao.weight_tensor import WeightTensor, span_of
from harness.formats.integer import Integer
from harness.formats.minifloat import Minifloat
from harness.quant.schemes.block_scaled import BlockScaled

OFFERED = (
    "it has int8 and fp8 (per-tensor, per-channel, groups), int4 (symmetric groups of 32, 64 or "
    "128) and nvfp4; with rounded activations int8 and fp8 (per-tensor, per-channel; activations "
    "as in the recipes torchao_*_dynamic*), mxfp8, mxfp4 and nvfp4"
)


def unsupported_by_torchao(rules: Sequence[LayerRule], device: torch.device) -> str | None:
    """Return why torchao cannot run some rule on a device, or None."""
    if reason := not_importable():
        return reason
    found = (tensor_for(rule, device) for rule in rules)
    return next((reason for reason in found if isinstance(reason, str)), None)


def tensor_for(rule: LayerRule, device: torch.device) -> WeightTensor | str:
    """Return the tensor for the weights of a rule on a device, or why there is none."""
    if device.type not in ("cpu", "cuda"):
        return f"its kernels are for cpu and cuda, got {device.type}"
    if rule.static_input:
        return "its activations must have scales fitted at each call, got static_input=true"
    fmt, activation = rule.weight, rule.input
    found: WeightTensor | str | None = None
    # Formats of other classes, such as Affine, have zero points or scales that no tensor holds.
    if isinstance(fmt, BlockScaled) and (span := span_of(fmt)) is not None:
        match fmt.element:
            case Integer() as element:
                found = integer_tensor(fmt, element, span, activation, device)
            case Minifloat() as element:
                found = float_tensor(fmt, element, span, activation, device)
    if found is None:
        kind = "float activations" if activation is None else f"activations in {activation.name}"
        return f"no weight tensor of torchao holds {fmt.name} for {kind}; {OFFERED}"
    return found
