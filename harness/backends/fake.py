"""Fake quantization: rounded values, stored and multiplied in the model's float type.

The model has the accuracy of the format, on every device and for every format. It has the speed and
memory of the unquantized model, which say nothing about the format.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, Literal

import torch
from torch import Tensor

from harness.backends.base import Installed
from harness.backends.layer import LayerRule, QuantizedLayer
from harness.formats.overflow import overflow_in
from harness.models.activations.expert_activations import change_inputs
from harness.models.loaded import LoadedModel
from harness.models.targets.targets import Target
from harness.quant.primitives import fake_quantize
from harness.quant.tensor import Scales, TensorFormat


@dataclass(frozen=True, kw_only=True, slots=True)
class FakeBackend:
    """Puts the dequantized weight in place and rounds activations; see `Backend`."""

    name: ClassVar[str] = "fake"
    kind: ClassVar[Literal["fake-quant"]] = "fake-quant"
    tolerance: ClassVar[Mapping[str, float]] = MappingProxyType({})

    def supports(self, rules: Sequence[LayerRule], device: torch.device) -> str | None:  # noqa: ARG002
        """Return None: every format runs on every device."""
        return None

    def apply(self, loaded: LoadedModel, target: Target, layer: QuantizedLayer) -> None:
        """Swap in the dequantized weight, rounded once to the model's type; hook the activation."""
        # Formats see a matrix [N, K]; the parameter may be stored the other way round.
        values = target.stored(layer.dequantized())
        installed = loaded.swap_parameter(target.owner, target.attribute, values)
        # Modules that shared the float weight go on sharing one parameter.
        for other in target.shared:
            loaded.swap_parameter(other.owner, other.attribute, installed)
        if layer.input is not None:
            change_inputs(loaded, target, _rounding(layer.name, layer.input, layer.input_scales))

    def inspect(self, loaded: LoadedModel, target: Target, layer: QuantizedLayer) -> Installed:  # noqa: ARG002
        """Compare the weight in place with the codes, bit for bit."""
        weight = target.weight
        fault = None
        # The codes are decoded once more. `layer.values` may be the very memory of the parameter in
        # place (in float32 a cast copies nothing), and a tensor always equals itself.
        if weight.numel() != layer.weight.codes.numel() or not torch.equal(
            target.matrix, layer.weight.dequantize().to(weight.dtype)
        ):
            fault = "the weight in place is not the dequantized one"
        elif any(other.weight is not weight for other in target.shared):
            fault = "modules that share a weight have different ones"
        return Installed(
            kernel="torch.nn.functional.linear" if target.linear else "torch.matmul",
            stored_bytes=weight.nbytes,
            fault=fault,
        )


def _rounding(name: str, fmt: TensorFormat, scales: Scales | None) -> Callable[[Tensor], Tensor]:
    """Return a function that rounds the activation of a layer; its errors name the layer."""

    def rounded(x: Tensor) -> Tensor:
        with overflow_in(f"input of {name}"):
            # Formats see one matrix [tokens, K], so that per-token scales belong to tokens.
            tokens = x.reshape(-1, x.shape[-1])
            return fake_quantize(tokens, fmt, scales=scales).view(x.shape)

    return rounded
