"""What a backend is: it takes quantized layers and puts something that computes with them into the model.

A *fake* backend keeps rounded values in the float type: the accuracy of a format, on any device. A *real* one keeps codes and
scales, and multiplies with them: its speed and memory are those of the format. Both start from the same `QuantizedLayer`,
so that one can be held against the other (`task=parity`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import nn

from harness.backends.layer import LayerRule, QuantizedLayer
from harness.calibration.calibration_set import CalibrationSet
from harness.models.loaded import LoadedModel
from harness.models.targets.targets import Target

Kind = Literal["fake-quant", "real"]
ROUNDING: Mapping[str, float] = MappingProxyType(
    {"float32": 1e-5, "bfloat16": 1e-2, "float16": 2e-3}
)
"""Tolerance of matmuls of the same codes, by type of the model, on every processor.

16 bits: at most five numbers are rounded to the type (weight, input, scale, sum, result), each by its unit roundoff u and independently of
the others: sqrt(5) u is 8.7e-3 in bfloat16 and 1.1e-3 in float16. float32: only the order of sums of K terms differs, which moves them by
sqrt(K) u, 1e-5 up to K = 28,000.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Installed:
    """What is in the place of a float weight, as found there."""

    kernel: str
    """What multiplies, such as `torch._int_mm`."""
    stored_bytes: int
    """Memory of codes, scales and what else stands for the weight; a bias is not counted [byte]."""
    fault: str | None = None
    """What is not as the layer promised, or None."""


def install(loaded: LoadedModel, target: Target, module: nn.Module) -> None:
    """Put a module in the place of a linear layer, and of all layers that share its weight."""
    for each in (target, *target.shared):
        loaded.swap_module(each.name, module)


@runtime_checkable
class Backend(Protocol):
    """Makes a model compute with quantized weights, or says why it cannot."""

    @property
    def name(self) -> str:
        """Name in records, such as `torchao`."""

    @property
    def kind(self) -> Kind:
        """Whether speed and memory mean something."""

    @property
    def tolerance(self) -> Mapping[str, float]:
        """Largest relative difference of a layer's output from the fake path's, on the same input, that counts as equal; by type of the model."""

    def supports(self, rules: Sequence[LayerRule], device: torch.device) -> str | None:
        """Return why these rules cannot run on a device, or None if they can. Shapes are for `apply` to refuse."""

    def apply(self, loaded: LoadedModel, target: Target, layer: QuantizedLayer) -> None:
        """Put the quantized layer in the place of the float weight, in the target and in all that share its weight (`Target.shared`).

        `loaded.restore` undoes it.

        Raises:
            UnsupportedRecipe: This layer cannot run here.
        """

    def inspect(self, loaded: LoadedModel, target: Target, layer: QuantizedLayer) -> Installed:
        """Return what is in the place of a float weight now, and how it differs from the layer, by type, size and value."""


@runtime_checkable
class CalibratedBackend(Backend, Protocol):
    """A backend that is fitted to a text."""

    @property
    def calibration(self) -> CalibrationSet:
        """What the float model runs over."""


@runtime_checkable
class PreparedBackend(Backend, Protocol):
    """A backend that looks at the whole float model before its first layer is quantized."""

    def prepare(self, loaded: LoadedModel, targets: Sequence[Target]) -> tuple[str, ...]:
        """Do what cannot be done layer by layer; return warnings.

        Raises:
            UnsupportedRecipe: The model, or some target, cannot be served.
        """
