"""torchao's SmoothQuant (0.18; Xiao et al., arXiv 2211.10438).

How it works
    Each input channel k of a layer is divided by a factor, and the weight is multiplied by it.
    Outliers of the activation so move into the weight, which is easier to quantize:

        s_k = (max |X_k| + eps)^alpha / (max |W_k| + eps)^(1 - alpha)
        Y   = q(X / s) q(W s)^T

    The maxima of X come from torchao's observers while the unquantized model runs over a
    calibration set (`maxima`). They belong to the model and the set: all recipes of a sweep share
    them.

Dtype choice
    s is a number of the model's type. The activation is multiplied by 1/s at each call: torchao
    does not fold it into the layer before, so that a timed run includes this multiplication.

How the two formats differ
    INT8 goes through `SmoothQuantConfig`. FP8 cannot: in torchao 0.18 a `Float8Tensor` has no
    `act_pre_scale`. There the observer gives s, an FP8 tensor holds W s, and `ScaledInputLinear`
    multiplies the activation. In both formats the codes are ours: W s, quantized.

Why it has no tolerance
    The fake path does not smooth, so that it is no reference for these recipes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from harness.backends.base import Installed, install
from harness.backends.layer import LayerRule, QuantizedLayer
from harness.backends.probe import Operands
from harness.backends.torchao.choice import tensor_for, unsupported_by_torchao
from harness.backends.torchao.conversion import (
    filled,
    inspected,
    linear_of,
    linear_with,
    made_by_torchao,
    tensor_of,
)
from harness.backends.torchao.library import torchao
from harness.backends.torchao.maxima import ActivationMaxima, observe
from harness.backends.torchao.weight_tensor import WeightTensor
from harness.calibration.calibration_set import CalibrationSet
from harness.errors import DataError, UnsupportedRecipe
from harness.models.loaded import LoadedModel
from harness.models.targets.targets import Target
from harness.quant.primitives import quantize
from harness.quant.tensor import QuantizedTensor

SMOOTHED = ("Int8Tensor", "Float8Tensor")
"""Weight tensors whose layers can be smoothed."""


class Smoothed(NamedTuple):
    """A linear layer with the outliers of its activation in its weight."""

    inverse: Tensor
    """1/s `[K]`, in the model's type."""
    weight: Tensor
    """W s `[N, K]`, in the model's type."""
    codes: QuantizedTensor
    """W s in the format of the layer."""
    observed: Any
    """torchao's layer with an observer, ready to be converted."""


class ScaledInputLinear(nn.Linear):
    """A linear layer that multiplies its activation by a vector first."""

    input_scale: Tensor

    def forward(self, input: Tensor) -> Tensor:
        """Return `(x * input_scale) W^T + b`."""
        return super().forward(input * self.input_scale)


@dataclass(frozen=True, kw_only=True, slots=True)
class TorchaoSmoothQuantBackend:
    """SmoothQuant on torchao's dynamic INT8 and FP8; see the module docstring and `Backend`."""

    name: ClassVar[str] = "torchao-smoothquant"
    kind: ClassVar[Literal["real"]] = "real"
    tolerance: ClassVar[Mapping[str, float]] = MappingProxyType({})

    calibration: CalibrationSet
    """The text whose activations the smoothing factors are computed from."""
    alpha: float = 0.5
    """Share of the activation's range that moves into the weight: 0 for none of it, 1 for all."""

    def __post_init__(self) -> None:
        """Check that alpha is in [0, 1]."""
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha must be 0..1, got {self.alpha}")

    def supports(self, rules: Sequence[LayerRule], device: torch.device) -> str | None:
        """Return why torchao cannot run some rule, or why a rule cannot be smoothed, or None."""
        if reason := unsupported_by_torchao(rules, device):
            return reason
        for rule in rules:
            tensor = tensor_for(rule, device)
            is_other = isinstance(tensor, WeightTensor) and tensor.name not in SMOOTHED
            if rule.input is None or is_other:
                activations = "none" if rule.input is None else rule.input.name
                return (
                    "SmoothQuant is for weights and activations in INT8 or FP8, "
                    f"got {rule.weight.name} and {activations}"
                )
        return None

    def prepare(self, loaded: LoadedModel, targets: Sequence[Target]) -> tuple[str, ...]:  # noqa: ARG002
        """Run the unquantized model over the calibration set, unless a recipe before has done so.

        Raises:
            DataError: The text has changed since.
        """
        # The maxima are kept for the sweep, and the text may be a file that changes meanwhile.
        seen, text = self._maxima(loaded).text, self.calibration.text()
        if seen.sha256 != text.sha256:
            raise DataError(
                "the calibration text must stay as it is while a sweep runs, "
                f"got another content of {text.name}; repeat the command"
            )
        return text.warnings

    @torch.no_grad()
    def apply(self, loaded: LoadedModel, target: Target, layer: QuantizedLayer) -> None:
        """Put a smoothed layer of torchao's in place; the float layer is not changed."""
        linear = linear_of(target)
        tensor = tensor_of(layer, loaded)
        smoothed = self._smoothed(loaded, linear, layer)
        # INT8: torchao converts its observed layer, which keeps 1/s in the weight tensor.
        if tensor.name == "Int8Tensor":
            made = made_by_torchao(smoothed.observed, self._config(tensor))
            module = linear_with(filled(tensor, made, smoothed.codes), linear.bias)
        else:
            # FP8: a plain tensor of W s, in a layer that multiplies the activation.
            made = made_by_torchao(linear_with(smoothed.weight, None), tensor.config())
            weight = filled(tensor, made, smoothed.codes)
            module = linear_with(weight, linear.bias, ScaledInputLinear)
            module.register_buffer("input_scale", smoothed.inverse)
        install(loaded, target, module)

    def inspect(self, loaded: LoadedModel, target: Target, layer: QuantizedLayer) -> Installed:
        """Compare type, values and factors in place with the smoothed layer."""
        module = loaded.module.get_submodule(target.name)
        smoothed = self._smoothed(loaded, linear_of(target), layer)
        found = inspected(module, tensor_of(layer, loaded), layer, smoothed.codes.dequantize())
        # FP8 layers hold the factors themselves, INT8 weights have them in the tensor.
        own = module.input_scale if isinstance(module, ScaledInputLinear) else None
        inverse = own if own is not None else getattr(module.weight, "act_pre_scale", None)
        if not found.fault and (inverse is None or not torch.equal(inverse, smoothed.inverse)):
            found = replace(found, fault="the input is not multiplied by 1/s of SmoothQuant")
        return replace(
            found,
            kernel=f"{found.kernel}; {self._description(loaded)}",
            stored_bytes=found.stored_bytes + (0 if own is None else own.nbytes),
        )

    def operands(self, loaded: LoadedModel, target: Target, layer: QuantizedLayer) -> Operands:
        """Return the smoothed weight, and the rounding of an activation multiplied by 1/s."""
        smoothed = self._smoothed(loaded, linear_of(target), layer)
        assert layer.input is not None  # noqa: S101 - `supports` asks for it
        rounded = partial(quantize, fmt=layer.input)
        return Operands(
            smoothed.codes.dequantize(), lambda x: rounded(x * smoothed.inverse).dequantize()
        )

    def _description(self, loaded: LoadedModel) -> str:
        """Return what the kernel of a layer in a record says of smoothing."""
        size = f"{self.calibration.num_sequences} x {self.calibration.length} tokens"
        text = self._maxima(loaded).text.name
        return f"input times 1/s by SmoothQuant, alpha {self.alpha:g}, {size} of {text}"

    def _config(self, tensor: WeightTensor) -> Any:
        return torchao("prototype.smoothquant").SmoothQuantConfig(
            base_config=tensor.config(), step="convert", alpha=self.alpha, use_running_absmax=True
        )

    @torch.no_grad()
    def _smoothed(self, loaded: LoadedModel, linear: nn.Linear, layer: QuantizedLayer) -> Smoothed:
        """Return a layer with its weight smoothed and quantized.

        Raises:
            UnsupportedRecipe: No calibration token reached the layer.
        """
        maxima = self._maxima(loaded).by_layer.get(layer.name)
        if maxima is None:
            raise UnsupportedRecipe(
                f"every layer must run in calibration, got none of its tokens in {layer.name}; "
                "raise backend.calibration.num_sequences, or add the layer to quant.skip"
            )
        library = torchao("prototype.smoothquant")
        observer = library.RunningAbsMaxSmoothQuantObserver(linear.weight, self.alpha)
        # The observer computes s from the maxima of this layer as if it had seen the set itself.
        observer.x_abs_max, observer.calibration_count = maxima, 1
        # s, and not 1/s. It is computed in the model's type.
        factor = observer.calculate_qparams()[0]
        weight = linear.weight * factor
        return Smoothed(
            inverse=1.0 / factor,
            weight=weight,
            codes=quantize(weight, layer.format),
            observed=library.SmoothQuantObservedLinear.from_float(linear, observer),
        )

    def _maxima(self, loaded: LoadedModel) -> ActivationMaxima:
        """Return the maxima of the model and the set, observed once for a whole sweep."""
        return loaded.cached(
            ("input maxima", self.calibration), lambda: observe(loaded, self.calibration)
        )
