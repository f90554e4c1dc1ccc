"""torchao (0.18): its weight tensors, with our codes, and the matmuls that torch has for them.

How it works
    `quantize_` makes torchao's layer of one linear layer at a time, and our codes and scales take
    the place of its own (`conversion`; `choice` says how they differ). So `task=parity` measures
    the arithmetic of the kernels:

    INT8 weight-only    codes widened to the model's type, times the activation, times the scale
                        rounded to that type
    INT8 dynamic        exact integer sums, rounded before and after the per-channel scale
    INT4                the weight is (code - 8) * scale, in float32 or rounded; sums in float32
    FP8, NVFP4 weights  dequantized to the model's type at each call, as the fake path has them

What torchao leaves in float
    An INT4 weight whose rows are not whole groups, an FP8 weight whose sizes are not multiples of
    16. Here such a layer is unsupported. The audit compares the type of the tensor in place, its
    values, and whether it rounds activations.

What is not offered
    IntxUnpackedToInt8Tensor stores a byte for each weight, whatever the format.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from harness.backends.base import MATMUL_TOLERANCE, Installed, install
from harness.backends.layer import LayerRule, QuantizedLayer
from harness.backends.torchao.choice import unsupported_by_torchao
from harness.backends.torchao.conversion import (
    converted_weight,
    inspected,
    linear_of,
    linear_with,
    tensor_of,
)
from harness.models.loaded import LoadedModel
from harness.models.targets.targets import Target


@dataclass(frozen=True, kw_only=True, slots=True)
class TorchaoBackend:
    """torchao's tensors and kernels; see the module docstring and `Backend`."""

    name: ClassVar[str] = "torchao"
    kind: ClassVar[Literal["real"]] = "real"
    tolerance: ClassVar[Mapping[str, float]] = MATMUL_TOLERANCE

    def supports(self, rules: Sequence[LayerRule], device: torch.device) -> str | None:
        """Return what is missing, or None: torchao, a tensor for a format, or a kernel."""
        return unsupported_by_torchao(rules, device)

    def apply(self, loaded: LoadedModel, target: Target, layer: QuantizedLayer) -> None:
        """Put a linear layer with torchao's weight in place; the float layer is not changed."""
        linear = linear_of(target)
        weight = converted_weight(
            tensor_of(layer, loaded), linear.weight.contiguous(), layer.weight
        )
        install(loaded, target, linear_with(weight, linear.bias))

    def inspect(self, loaded: LoadedModel, target: Target, layer: QuantizedLayer) -> Installed:
        """Compare type, rounding of activations and values in place with the layer."""
        module = loaded.module.get_submodule(target.name)
        return inspected(module, tensor_of(layer, loaded), layer, layer.weight.dequantize())
