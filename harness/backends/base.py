"""The contract of a backend: it puts quantized layers into a model.

There are two kinds, and both start from the same `QuantizedLayer`:

    fake-quant   keeps rounded weights in the model's float type    the accuracy of a format
    real         keeps codes and scales, and multiplies with them   its speed and memory as well

`task=parity` compares a real backend with the fake one.
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

BackendKind = Literal["fake-quant", "real"]
MATMUL_TOLERANCE: Mapping[str, float] = MappingProxyType(
    {"float32": 1e-5, "bfloat16": 1e-2, "float16": 2e-3}
)
"""Largest relative difference of two matmuls of the same codes, by type of the model.

16-bit types: at most five numbers are rounded to the type (weight, activation, scale, sum, result),
each by its unit roundoff u and independently of the others. sqrt(5) u is 8.7e-3 in bfloat16 and
1.1e-3 in float16. float32: only the order of sums of K terms differs. It moves them by sqrt(K) u,
which is 1e-5 for K = 28,000. No bound depends on the processor.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Installed:
    """What an audit finds in the place of a float weight."""

    kernel: str
    """What multiplies, such as `torch._int_mm`; part of the record."""
    stored_bytes: int
    """Memory of codes, scales and tables that stand for the weight, without a bias [byte]."""
    fault: str | None = None
    """How the layer in place differs from the quantized one, or None."""


def install(loaded: LoadedModel, target: Target, module: nn.Module) -> None:
    """Put a module in the place of a linear layer and of all layers that share its weight."""
    # One module for all paths: layers that shared a weight share its codes.
    for each in (target, *target.shared):
        loaded.swap_module(each.name, module)


@runtime_checkable
class Backend(Protocol):
    """Makes a model compute with quantized weights, or says why it cannot."""

    @property
    def name(self) -> str:
        """Name in records, such as `torchao`."""

    @property
    def kind(self) -> BackendKind:
        """`real` if the model gets the speed and memory of the format."""

    @property
    def tolerance(self) -> Mapping[str, float]:
        """Tolerance of parity, by type of the model; empty where the backend promises no equality.

        It is the largest relative difference of a layer's output from the output of the fake path
        on the same activation.
        """

    def supports(self, rules: Sequence[LayerRule], device: torch.device) -> str | None:
        """Return why these rules cannot run on a device, or None. `apply` checks the shapes."""

    def apply(self, loaded: LoadedModel, target: Target, layer: QuantizedLayer) -> None:
        """Put a quantized layer in the place of a float weight; `loaded.restore` undoes it.

        The layers that share the weight (`Target.shared`) are replaced too.

        Raises:
            UnsupportedRecipe: This layer cannot run here.
        """

    def inspect(self, loaded: LoadedModel, target: Target, layer: QuantizedLayer) -> Installed:
        """Return what is in place now, compared with the layer by type, size and value."""


@runtime_checkable
class CalibratedBackend(Backend, Protocol):
    """A backend that is fitted to calibration text."""

    @property
    def calibration(self) -> CalibrationSet:
        """Sequences that the unquantized model runs over."""


@runtime_checkable
class PreparedBackend(Backend, Protocol):
    """A backend that needs the whole unquantized model before its first layer is quantized."""

    def prepare(self, loaded: LoadedModel, targets: Sequence[Target]) -> tuple[str, ...]:
        """Do what cannot be done layer by layer; return warnings.

        Raises:
            UnsupportedRecipe: The backend does not support the model, or some target.
        """


@runtime_checkable
class BatchedBackend(Backend, Protocol):
    """A backend in whose layers the tokens of a batch depend on each other."""

    @property
    def batch_effect(self) -> str | None:
        """How they do, in words that go before `: results depend on ...`; None if they do not."""
