"""A linear layer that computes as if its weight and its input were stored in a format.

    float        Y = X W^T + b                              nothing is rounded
    calibrate    the same, and the range of X is recorded
    fake_quant   Y = q(X) q(W)^T + b                        gradients go straight through

The scales of the input are dynamic (fitted to each call) or static (fitted to the ranges recorded in `calibrate`). Static
scales serve every token, so a static format must not have scales for single rows. `PRESETS` are the usual pairs of
formats; `replace_linears` puts the layer into a model in place.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Literal, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.formats.integer import Integer
from harness.nn.exact_buffers import exact_buffers
from harness.nn.ops import fake_quantize_ste
from harness.quant.granularity import Granularity
from harness.quant.primitives import fake_quantize, fit
from harness.quant.range import Range, StaticFormat
from harness.quant.schemes.block_scaled import BlockScaled
from harness.quant.tensor import Scales, TensorFormat

BYPASSING = (nn.MultiheadAttention, nn.TransformerEncoderLayer)
"""Modules of torch that hand the weights of their linear layers to fused kernels."""
Mode = Literal["float", "calibrate", "fake_quant"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Preset:
    """Formats of a linear layer."""

    weight: TensorFormat
    input: TensorFormat | None = None
    """None leaves the input in float."""


def _integer(bits: int, rows: int, columns: int) -> BlockScaled:
    return BlockScaled(element=Integer(bits=bits), granularity=Granularity(block=(rows, columns)))


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "w8a8": Preset(weight=_integer(8, 1, -1), input=_integer(8, 1, -1)),
        "w8a16": Preset(weight=_integer(8, 1, -1)),
        "w4a16": Preset(weight=_integer(4, 1, 128)),
        "w4a4": Preset(weight=_integer(4, 1, 128), input=_integer(4, 1, 128)),
        "w8a8_block": Preset(weight=_integer(8, 128, 128), input=_integer(8, 1, 128)),
        "w8a16_block": Preset(weight=_integer(8, 128, 128)),
    }
)
"""INT8 and INT4, the input with one scale a token or a group of 128; `block` has one weight scale for 128 x 128."""


def quantize_activation(
    x: Tensor, fmt: TensorFormat, scales: Scales | None = None, *, mask_clipped: bool = False
) -> Tensor:
    """Return an activation `[.., K]` rounded to a format as a matrix `[tokens, K]`; same shape and type, gradient straight through."""
    tokens = x.reshape(-1, x.shape[-1])
    rounded = fake_quantize_ste(tokens, fmt, scales=scales, mask_clipped=mask_clipped)
    return rounded.view(x.shape)


class FakeQuantLinear(nn.Linear):
    """`nn.Linear` with formats; see the module docstring. Its weight stays the float one: rounding is part of `forward`."""

    mode: Mode
    input_low: Tensor | None
    input_high: Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        weight_format: TensorFormat | None,
        input_format: TensorFormat | None = None,
        static_input: bool = False,
        bias: bool = True,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Make an untrained layer in mode `fake_quant`, or `calibrate` if its input scales are static.

        Raises:
            ValueError: `static_input` without a format that can have static scales.
        """
        super().__init__(in_features, out_features, bias=bias, device=device, dtype=dtype)
        self.weight_format, self.input_format = weight_format, input_format
        self.static_input = static_input
        self.mode = "calibrate" if static_input else "fake_quant"
        self._kept: _Frozen | None = None
        if static_input:
            self._refuse_rows()
        shape = _static_shape(input_format, in_features) if static_input else None
        # Ranges start empty: any range is their union with it.
        for name in ("input_low", "input_high"):
            empty = None if shape is None else torch.zeros(shape, device=device)
            self.register_buffer(name, empty)

    @classmethod
    def from_module(
        cls,
        linear: nn.Linear,
        weight: TensorFormat | None,
        input: TensorFormat | None = None,
        *,
        static_input: bool = False,
    ) -> Self:
        """Return a layer that shares the parameters of `linear`."""
        layer = cls(
            linear.in_features,
            linear.out_features,
            weight_format=weight,
            input_format=input,
            static_input=static_input,
            bias=linear.bias is not None,
            device=torch.device("meta"),
        )
        layer.weight, layer.bias = linear.weight, linear.bias
        for name in ("input_low", "input_high"):
            if (empty := getattr(layer, name)) is not None:
                setattr(layer, name, torch.zeros(empty.shape, device=linear.weight.device))
        return layer.train(linear.training)

    def forward(self, input: Tensor) -> Tensor:
        """Compute as the mode says."""
        if self.mode == "calibrate":
            self.observe(input)
        if self.mode != "fake_quant":
            return F.linear(input, self.weight, self.bias)
        if self.input_format is not None:
            scales = self.input_scales()
            input = quantize_activation(
                input, self.input_format, scales, mask_clipped=scales is not None
            )
        return F.linear(input, self.rounded_weight(), self.bias)

    def rounded_weight(self) -> Tensor:
        """Return the weight as its format holds it; kept until the weight changes, unless it is being trained."""
        if self.weight_format is None:
            return self.weight
        if torch.is_grad_enabled() and self.weight.requires_grad:
            return fake_quantize_ste(self.weight, self.weight_format)
        return self._frozen(self.weight_format).rounded

    def weight_scales(self) -> Scales | None:
        """Return the scales (and zero points) of the weight; None if it stays in float."""
        return None if self.weight_format is None else self._frozen(self.weight_format).scales

    def _frozen(self, fmt: TensorFormat) -> "_Frozen":
        # Outside of inference mode, so that what is kept can take part in training later.
        with torch.inference_mode(False), torch.no_grad():
            if self.weight.is_inference():  # such tensors do not tell whether they were changed
                return _freeze(self.weight, fmt, version=-1)
            version = self.weight._version  # noqa: SLF001 - torch has no public counter
            kept = self._kept
            same = kept is not None and kept.parameter is self.weight and kept.version == version
            # The old storage is held, so that no other can lie at its address.
            if kept is None or not same or kept.storage.data_ptr() != self.weight.data_ptr():
                self._kept = kept = _freeze(self.weight, fmt, version)
            return kept

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move and cast the layer, but keep recorded ranges in float32."""
        self._kept = None
        with exact_buffers(self):
            super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    @torch.no_grad()
    def observe(self, x: Tensor) -> None:
        """Widen the recorded range of the input so that it covers `x`."""
        if not isinstance(self.input_format, StaticFormat) or self.input_low is None:
            return
        found = self.input_format.measure(x.reshape(-1, x.shape[-1]))
        known = self._range()
        if known is not None:
            # In place, because a buffer made in inference mode could never be loaded or trained with.
            wider = known.union(found)
            known.low.copy_(wider.low)
            known.high.copy_(wider.high)

    def input_scales(self) -> Scales | None:
        """Return the static scales of the input, or None if they are dynamic.

        Raises:
            RuntimeError: They are static, and nothing was recorded yet.
        """
        if not self.static_input or not isinstance(self.input_format, StaticFormat):
            return None
        known = self._range()
        if known is None or not known.absmax.any():
            raise RuntimeError(
                "static input scales must be calibrated before mode fake_quant, got no range yet; "
                "run data through the layer in mode calibrate"
            )
        return self.input_format.scales_of(known)

    def _range(self) -> Range | None:
        if self.input_low is None or self.input_high is None:
            return None
        return Range(self.input_low, self.input_high)

    def _refuse_rows(self) -> None:
        """Raise ValueError unless one set of input scales can serve all tokens."""
        fmt = self.input_format
        if not isinstance(fmt, StaticFormat) or fmt.granularity.block[0] != -1:
            got = "no input format" if fmt is None else fmt.name
            raise ValueError(
                "a static input format must have scales of ranges that all tokens share (block [-1, ..]), "
                f"got {got}; use static_input=False for scales of single tokens"
            )

    def extra_repr(self) -> str:
        """Say what `nn.Linear` says, and the formats."""
        formats = [getattr(f, "name", "float") for f in (self.weight_format, self.input_format)]
        scales = "static" if self.static_input else "dynamic"
        return f"{super().extra_repr()}, weight={formats[0]}, input={formats[1]} ({scales}), mode={self.mode}"


class _Frozen(NamedTuple):
    """What was made of one version of a weight."""

    parameter: Tensor
    storage: Tensor
    version: int
    scales: Scales
    rounded: Tensor


def _freeze(weight: Tensor, fmt: TensorFormat, version: int) -> _Frozen:
    values = weight.detach()
    scales = fit(values, fmt)
    return _Frozen(weight, values, version, scales, fake_quantize(values, fmt, scales=scales))


def _static_shape(fmt: TensorFormat | None, in_features: int) -> tuple[int, ...] | None:
    return None if fmt is None else fmt.granularity.scale_shape((1, in_features))


def replace_linears(
    model: nn.Module,
    weight: TensorFormat | None,
    input: TensorFormat | None = None,
    *,
    static_input: bool = False,
    skip: tuple[str, ...] = ("lm_head",),
) -> list[str]:
    """Put a `FakeQuantLinear` in the place of every `nn.Linear` of a model, and return their paths.

    Args:
        model: Changed in place; parameters stay the same objects.
        weight: Format of the weights, None for float.
        input: Format of the inputs, None for float.
        static_input: Take input scales from calibration.
        skip: Globs over module paths that stay as they are.

    Raises:
        ValueError: Nothing is left to replace.
    """
    found = {
        name: module
        for name, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, nn.Linear)
        and not isinstance(module, FakeQuantLinear)
        and not any(fnmatchcase(name, pattern) for pattern in skip)
    }
    if not found:
        raise ValueError(
            f"a model must have linear layers outside of skip={skip}, got none in {type(model).__name__}"
        )
    if "" in found:
        raise ValueError(
            "a model must have linear layers inside, got one itself; use FakeQuantLinear.from_module"
        )
    _refuse_bypassed(model, found)
    made: dict[nn.Module, FakeQuantLinear] = {}
    for name, module in found.items():
        if module not in made:
            made[module] = FakeQuantLinear.from_module(
                module, weight, input, static_input=static_input
            )
        model.set_submodule(name, made[module])
    return list(found)


def _refuse_bypassed(model: nn.Module, names: Iterable[str]) -> None:
    """Raise ValueError for a layer whose parent reads its weight without calling it: nothing would be rounded."""
    for name in names:
        parents = [name.rsplit(".", depth)[0] for depth in range(1, name.count(".") + 1)]
        for parent in (model, *map(model.get_submodule, parents)):
            if isinstance(parent, BYPASSING):
                raise ValueError(
                    f"a layer must be called by its parent to round anything, got {name} in a {type(parent).__name__}, "
                    "which reads its weight; add it to skip"
                )


def set_mode(model: nn.Module, mode: Mode) -> None:
    """Set the mode of every `FakeQuantLinear` in a model."""
    for module in model.modules():
        if isinstance(module, FakeQuantLinear):
            module.mode = mode
