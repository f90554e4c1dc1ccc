"""torchao's SmoothQuant (0.18; Xiao et al., arXiv 2211.10438): outliers of the input move into the weight.

    s_k = (max |X_k| + eps)^alpha / (max |W_k| + eps)^(1 - alpha)         one number for each input channel k
    Y   = q(X / s) q(W s)^T

The maxima of X come from torchao's observers while the float model runs over a calibration set, one vector for each layer.
They belong to the model and the set, so that all recipes of a sweep share them. s is a number of the model's type, and the
input is multiplied by 1/s at each call: torchao does not fold it into the layer before, and this product is part of the time.

INT8 goes through `SmoothQuantConfig`. torchao 0.18 refuses an FP8 weight there (`Float8Tensor` has no `act_pre_scale`): its
observer gives s, its FP8 tensor holds W s, and `ScaledInputLinear` multiplies the input. Codes are ours in both (see
`torchao_layouts`), of W s. The fake path does not smooth, so that it is no reference for these recipes: `tolerance` is empty.
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
from harness.backends.torchao.backend import (
    filled,
    inspected,
    layout_of,
    linear_of,
    linear_with,
    made_by_torchao,
    unsupported,
)
from harness.backends.torchao.layouts import Layout, choose
from harness.backends.torchao.packing import torchao
from harness.calibration.calibration_set import CalibrationSet
from harness.data.source import Text
from harness.display.progress import bar
from harness.errors import DataError, UnsupportedRecipe
from harness.models.loaded import LoadedModel
from harness.models.targets.targets import Target, find_targets
from harness.models.targets.weight_layout import is_linear
from harness.quant.primitives import quantize
from harness.quant.tensor import QuantizedTensor

SMOOTHED = ("Int8Tensor", "Float8Tensor")


class Maxima(NamedTuple):
    """What the observers saw."""

    by_layer: Mapping[str, Tensor]
    """max |X| `[K]` of each linear layer that ran, in the model's type."""
    text: Text
    """What the model ran over."""


class Smoothed(NamedTuple):
    """A layer with the outliers of its input in its weight."""

    inverse: Tensor
    """1/s `[K]`, in the model's type."""
    weight: Tensor
    """W s, in the model's type."""
    codes: QuantizedTensor
    """W s in the format of the layer."""
    observed: Any
    """torchao's layer with an observer, ready to be converted."""


class ScaledInputLinear(nn.Linear):
    """A linear layer that multiplies its input by a vector first."""

    input_scale: Tensor

    def forward(self, input: Tensor) -> Tensor:
        """Return `(x * input_scale) W^T + b`."""
        return super().forward(input * self.input_scale)


@dataclass(frozen=True, kw_only=True, slots=True)
class TorchaoSmoothQuantBackend:
    """SmoothQuant on torchao's dynamic INT8 and FP8 products; see the module docstring and `Backend`."""

    name: ClassVar[str] = "torchao-smoothquant"
    kind: ClassVar[Literal["real"]] = "real"
    tolerance: ClassVar[Mapping[str, float]] = MappingProxyType({})

    calibration: CalibrationSet
    """The text whose activations the smoothing factors are computed from."""
    alpha: float = 0.5
    """How much of the input's range moves into the weight: 0 for none of it, 1 for all."""

    def __post_init__(self) -> None:
        """Refuse an alpha that is no share."""
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha must be 0..1, got {self.alpha}")

    def supports(self, rules: Sequence[LayerRule], device: torch.device) -> str | None:
        """As torchao; and smoothing is for rounded inputs, in INT8 or FP8."""
        if reason := unsupported(rules, device):
            return reason
        for rule in rules:
            layout = choose(rule, device)
            if rule.input is None or (isinstance(layout, Layout) and layout.tensor not in SMOOTHED):
                given = "none" if rule.input is None else rule.input.name
                return f"SmoothQuant is for INT8 or FP8 weights and inputs, got {rule.weight.name} and {given}"
        return None

    def prepare(self, loaded: LoadedModel, targets: Sequence[Target]) -> tuple[str, ...]:  # noqa: ARG002
        """Run the float model over the calibration set, unless another recipe of the sweep has done so.

        Raises:
            DataError: The text is not the one that the other recipe saw.
        """
        seen, text = self._maxima(loaded).text, self.calibration.text()
        if seen.sha256 != text.sha256:
            raise DataError(
                f"the calibration text must stay as it is while a sweep runs, got another content of {text.name}; repeat the command"
            )
        return text.warnings

    @torch.no_grad()
    def apply(self, loaded: LoadedModel, target: Target, layer: QuantizedLayer) -> None:
        """Put a smoothed layer of torchao's in the place of the float one, which stays as it is."""
        linear = linear_of(target)
        layout = layout_of(layer, loaded)
        smoothed = self._smoothed(loaded, linear, layer)
        if layout.tensor == "Int8Tensor":
            made = made_by_torchao(smoothed.observed, self._config(layout))
            module = linear_with(filled(layout, made, smoothed.codes), linear.bias)
        else:
            made = made_by_torchao(linear_with(smoothed.weight, None), layout.config())
            weight = filled(layout, made, smoothed.codes)
            module = linear_with(weight, linear.bias, ScaledInputLinear)
            module.register_buffer("input_scale", smoothed.inverse)
        install(loaded, target, module)

    def inspect(self, loaded: LoadedModel, target: Target, layer: QuantizedLayer) -> Installed:
        """Compare type, values and input scales in place with the smoothed layer."""
        layout = layout_of(layer, loaded)
        module = loaded.module.get_submodule(target.name)
        smoothed = self._smoothed(loaded, linear_of(target), layer)
        found = inspected(module, layout, layer, smoothed.codes.dequantize())
        own = module.input_scale if isinstance(module, ScaledInputLinear) else None
        scale = own if own is not None else getattr(module.weight, "act_pre_scale", None)
        if not found.fault and (scale is None or not torch.equal(scale, smoothed.inverse)):
            found = replace(found, fault="the input is not multiplied by 1/s of SmoothQuant")
        calibration = self.calibration
        how = (
            f"input times 1/s by SmoothQuant, alpha {self.alpha:g}, {calibration.num_sequences} x {calibration.length} tokens "
            f"of {self._maxima(loaded).text.name}"
        )
        return replace(
            found,
            kernel=f"{found.kernel}; {how}",
            stored_bytes=found.stored_bytes + (0 if own is None else own.nbytes),
        )

    def operands(self, loaded: LoadedModel, target: Target, layer: QuantizedLayer) -> Operands:
        """Return the smoothed weight, and the rounding of an input that was multiplied by 1/s."""
        smoothed = self._smoothed(loaded, linear_of(target), layer)
        assert layer.input is not None  # noqa: S101 - `supports` asks for it
        rounded = partial(quantize, fmt=layer.input)
        return Operands(
            smoothed.codes.dequantize(), lambda x: rounded(x * smoothed.inverse).dequantize()
        )

    def _config(self, layout: Layout) -> Any:
        return torchao("prototype.smoothquant").SmoothQuantConfig(
            base_config=layout.config(), step="convert", alpha=self.alpha, use_running_absmax=True
        )

    @torch.no_grad()
    def _smoothed(self, loaded: LoadedModel, linear: nn.Linear, layer: QuantizedLayer) -> Smoothed:
        maxima = self._maxima(loaded).by_layer.get(layer.name)
        if maxima is None:
            raise UnsupportedRecipe(
                f"every layer must run in calibration, got none of its tokens in {layer.name}; "
                "raise backend.calibration.num_sequences, or add the layer to quant.skip"
            )
        library = torchao("prototype.smoothquant")
        observer = library.RunningAbsMaxSmoothQuantObserver(linear.weight, self.alpha)
        observer.x_abs_max, observer.calibration_count = maxima, 1
        factor = observer.calculate_qparams()[0]
        weight = linear.weight * factor
        return Smoothed(
            inverse=1.0 / factor,
            weight=weight,
            codes=quantize(weight, layer.format),
            observed=library.SmoothQuantObservedLinear.from_float(linear, observer),
        )

    def _maxima(self, loaded: LoadedModel) -> Maxima:
        return loaded.cached(
            ("input maxima", self.calibration), lambda: observe(loaded, self.calibration)
        )


@torch.no_grad()
def observe(loaded: LoadedModel, calibration: CalibrationSet) -> Maxima:
    """Run the float model over a calibration set, one sequence at a time, with an observer before every linear layer."""
    ids, text = calibration.draw(loaded)
    with loaded.unquantized():
        linears = [t for t in find_targets(loaded.module) if is_linear(t.owner)]
        library = torchao("prototype.smoothquant")
        observers = {t.name: library.RunningAbsMaxSmoothQuantObserver(t.matrix) for t in linears}
        hooks = [t.owner.register_forward_pre_hook(_show(observers[t.name])) for t in linears]
        try:
            with bar("calibration", len(ids)) as progress:
                for ids_L in ids.to(loaded.device):
                    loaded.module(ids_L[None], use_cache=False)
                    progress.advance(tokens=len(ids_L))
        finally:
            for hook in hooks:
                hook.remove()
    by_layer = {name: seen.x_abs_max for name, seen in observers.items() if seen.calibration_count}
    return Maxima(MappingProxyType(by_layer), text)


def _show(observer: nn.Module) -> Any:
    """Return a hook that shows a layer's input to an observer, which wants it contiguous."""

    def hook(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        observer(args[0].contiguous())

    return hook
