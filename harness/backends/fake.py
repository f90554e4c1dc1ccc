"""Fake quantization: the rounded values, stored and multiplied in the model's float type.

Accuracy is that of the format, on any device and for every format. Speed and memory are those of the float model, so
nothing about them may be concluded from it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch

from harness.models.source import LoadedModel
from harness.models.targets import Target
from harness.quant.layer import QuantizedLayer
from harness.quant.linear import quantize_activation
from harness.quant.tensor import TensorFormat


@dataclass(frozen=True, kw_only=True, slots=True)
class FakeBackend:
    """Dequantized values in the float weight's place; see `Backend`."""

    @property
    def kind(self) -> Literal["fake-quant"]:
        """`fake-quant`."""
        return "fake-quant"

    def supports(self, formats: Sequence[TensorFormat], device: torch.device) -> str | None:  # noqa: ARG002
        """Every format runs everywhere."""
        return None

    def apply(self, loaded: LoadedModel, target: Target, layer: QuantizedLayer) -> None:
        """Swap the weight for its dequantized codes, cast once to the model's type; round the input on its way in."""
        loaded.swap(target.owner, target.attribute, layer.weight.dequantize())
        if layer.input is not None:
            loaded.before(target.owner, partial(quantize_activation, fmt=layer.input))

    def audit(self, target: Target, layer: QuantizedLayer) -> str | None:
        """Compare the weight in place with the codes, bit for bit."""
        expected = layer.weight.dequantize().to(target.weight.dtype)
        if not torch.equal(target.weight, expected):
            return "the weight in place is not the dequantized one"
        return None
