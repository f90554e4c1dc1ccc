"""A linear layer that computes as if its weight and its activation were stored in a format.

    float        Y = X W^T + b                   nothing is rounded
    calibrate    Y = X W^T + b                   and the range of X is recorded
    fake_quant   Y = q(X) q(W)^T + b             gradients go straight through q

The scales of the activation X are dynamic (fitted to each call) or static (fitted to the ranges
recorded in `calibrate`). Static scales serve every token, so a static format must not have a scale
for each token.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.nn.exact_buffers import exact_buffers
from harness.nn.ops import fake_quantize_ste
from harness.quant.primitives import fake_quantize, fit
from harness.quant.range import Range, StaticFormat
from harness.quant.tensor import Scales, TensorFormat

Mode = Literal["float", "calibrate", "fake_quant"]


def quantize_activation(
    x: Tensor, fmt: TensorFormat, scales: Scales | None = None, *, mask_clipped: bool = False
) -> Tensor:
    """Return an activation `[.., K]` rounded as a matrix `[tokens, K]`; same shape and type.

    The gradient goes straight through, or is 0 where a number is clipped (`mask_clipped`).
    """
    tokens = x.reshape(-1, x.shape[-1])
    rounded = fake_quantize_ste(tokens, fmt, scales=scales, mask_clipped=mask_clipped)
    return rounded.view(x.shape)


class FakeQuantLinear(nn.Linear):
    """`nn.Linear` with formats; see the module docstring.

    The parameter stays the float weight: `forward` rounds it.
    """

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
        """Make an untrained layer in mode `fake_quant`, or `calibrate` if scales are static.

        Raises:
            ValueError: `static_input` without a format that can have static scales.
        """
        super().__init__(in_features, out_features, bias=bias, device=device, dtype=dtype)
        self.weight_format, self.input_format = weight_format, input_format
        self.static_input = static_input
        self.mode = "calibrate" if static_input else "fake_quant"
        self._kept: _Frozen | None = None
        if static_input:
            self._check_static()
        shape = None
        if static_input and input_format is not None:
            shape = input_format.granularity.scale_shape((1, in_features))
        # Ranges start as [0, 0]. Every range contains 0, so a union with it is the range itself.
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
        """Return the weight rounded to its format, cached until it changes.

        While the weight is trained nothing is cached.
        """
        if self.weight_format is None:
            return self.weight
        if torch.is_grad_enabled() and self.weight.requires_grad:
            return fake_quantize_ste(self.weight, self.weight_format)
        return self._frozen(self.weight_format).rounded

    def weight_scales(self) -> Scales | None:
        """Return the scales and zero points of the weight; None if it stays in float."""
        return None if self.weight_format is None else self._frozen(self.weight_format).scales

    def _frozen(self, fmt: TensorFormat) -> "_Frozen":
        # Leave inference mode: its tensors could not take part in training later.
        with torch.inference_mode(False), torch.no_grad():
            # Tensors of inference mode do not count their changes, so nothing is cached.
            if self.weight.is_inference():
                return _freeze(self.weight, fmt, version=-1)
            version = self.weight._version  # noqa: SLF001 - torch has no public counter
            kept = self._kept
            same = kept is not None and kept.parameter is self.weight and kept.version == version
            # `kept` holds the old storage, so that no new one can get its address.
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
        """Widen the recorded range of the activation so that it covers `x`."""
        if not isinstance(self.input_format, StaticFormat) or self.input_low is None:
            return
        found = self.input_format.measure(x.reshape(-1, x.shape[-1]))
        known = self._range()
        if known is not None:
            # In place: a buffer made in inference mode could never be loaded or trained with.
            wider = known.union(found)
            known.low.copy_(wider.low)
            known.high.copy_(wider.high)

    def input_scales(self) -> Scales | None:
        """Return the static scales of the activation, or None if they are dynamic.

        Raises:
            RuntimeError: They are static, and no range is recorded yet.
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

    def _check_static(self) -> None:
        """Check that one set of activation scales can serve all tokens."""
        fmt = self.input_format
        if not isinstance(fmt, StaticFormat) or fmt.granularity.block[0] != -1:
            got = "no input format" if fmt is None else fmt.name
            raise ValueError(
                "a static input format must have scales of ranges that all tokens share "
                f"(block [-1, ..]), got {got}; use static_input=False for scales of single tokens"
            )

    def extra_repr(self) -> str:
        """Return the text of `nn.Linear`, formats and mode."""
        formats = [getattr(f, "name", "float") for f in (self.weight_format, self.input_format)]
        scales = "static" if self.static_input else "dynamic"
        own = f"weight={formats[0]}, input={formats[1]} ({scales}), mode={self.mode}"
        return f"{super().extra_repr()}, {own}"


class _Frozen(NamedTuple):
    """Scales and rounded values of one version of a weight."""

    parameter: Tensor
    storage: Tensor
    version: int
    scales: Scales
    rounded: Tensor


def _freeze(weight: Tensor, fmt: TensorFormat, version: int) -> _Frozen:
    values = weight.detach()
    scales = fit(values, fmt)
    return _Frozen(weight, values, version, scales, fake_quantize(values, fmt, scales=scales))
