"""What a backend is: it takes quantized layers and puts something that computes with them into the model."""

from collections.abc import Sequence
from typing import Literal, Protocol, runtime_checkable

import torch

from harness.models.source import LoadedModel
from harness.models.targets import Target
from harness.quant.layer import QuantizedLayer
from harness.quant.tensor import TensorFormat


@runtime_checkable
class Backend(Protocol):
    """Makes a model compute with quantized weights, or says why it cannot."""

    @property
    def kind(self) -> Literal["fake-quant"]:
        """What the record calls the result."""

    def supports(self, formats: Sequence[TensorFormat], device: torch.device) -> str | None:
        """Return why these formats cannot run on a device, or None if they can."""

    def apply(self, loaded: LoadedModel, target: Target, layer: QuantizedLayer) -> None:
        """Put the quantized layer in the place of the float weight; `loaded.restore` undoes it."""

    def audit(self, target: Target, layer: QuantizedLayer) -> str | None:
        """Return what is wrong with what is now in the place of a float weight, or None."""
