"""Linear layers that multiply codes of the weight with codes of the activation, in INT8 or FP8.

How it works
    The activation is rounded to the element format of the weight, the codes are multiplied, and the
    scales are applied to the sums:

        s_x = max(absmax / element.max, 2^-126)    per token, or one per tensor
        q_x = round(x / s_x), saturated
        y   = (q_x q_w^T) * s_x * s_w + bias

    This is `quantize(x, fmt)` of a plain `BlockScaled` format, bit for bit (see the tests). It
    is written out here because it runs at every call: the general path knows every format, works in
    pieces and cannot be traced by a compiler.

Dtype choice
    INT8: `torch._int_mm` sums exactly in int32. FP8: `torch._scaled_mm` sums in float32. Scales and
    bias are applied in float32, and the result is rounded once to the type of the activation.

Layout rules
    `torch._scaled_mm` takes the weight transposed, and scales of one kind: per-token with
    per-channel, or per-tensor with per-tensor. A scale is repeated where the kinds differ. CUDA
    kernels for per-token scales return bfloat16 only.

How it differs from the fake path
    The fake path rounds `scale * code` to the model's type before it multiplies. Here codes are
    multiplied, and only the result is rounded: a 16-bit model has one rounding less.
"""

import torch
from torch import Tensor

from harness.backends.int8_matmul import int_mm
from harness.backends.scaled_mm.stored_linear import StoredLinear
from harness.formats.float32 import SMALLEST_NORMAL
from harness.quant.tensor import QuantizedTensor


class Int8Linear(StoredLinear):
    """INT8 weight and INT8 activation, each with per-channel (per-token) or per-tensor scales."""

    # Not `may_freeze`: frozen, torch packs the codes for a matmul that takes eight times as long
    # for one row.
    kernel = "torch._int_mm"
    static_scale: Tensor | None

    def __init__(
        self,
        weight: QuantizedTensor,
        bias: Tensor | None,
        *,
        per_token: bool = True,
        static_scale: Tensor | None = None,
    ) -> None:
        """Make the layer.

        Args:
            weight: Codes and scales, in the element format that activations are rounded to.
            bias: Bias of the float layer `[N]`.
            per_token: Fit a scale to each token; False fits one to all tokens of a call.
            static_scale: One scale `[1, 1]` for all calls; None fits scales at each call.
        """
        super().__init__(weight, bias)
        self.register_buffer("static_scale", static_scale)
        self._per_token = per_token
        # 127, 448 or 57344. Read once: a compiler need not trace through the format.
        self._highest = weight.element.max

    def forward(self, input: Tensor) -> Tensor:
        """Return `[.., N]` of `[.., K]`."""
        codes_MK, scale = self.quantize_activation(input)
        # Sums below 2^24 are exact in float32, larger ones are rounded once.
        sums_MN = int_mm(codes_MK, self.codes).float()
        return self._finish(sums_MN * scale * self.scale.view(1, -1), input)

    def quantize_activation(self, input: Tensor) -> tuple[Tensor, Tensor]:
        """Return codes `[M, K]` and scales `[M, 1]` or `[1, 1]` of an activation `[.., K]`."""
        x_MK = input.reshape(-1, self.in_features).float()
        scale = self.static_scale
        if scale is None:
            size_MK = x_MK.abs()
            token = self._per_token
            absmax = size_MK.amax(-1, keepdim=True) if token else size_MK.amax().view(1, 1)
            # The floor keeps the scale of zeros from being 0.
            scale = (absmax / self._highest).clamp(min=SMALLEST_NORMAL)
        units_MK = x_MK / scale
        # A cast to INT8 truncates, one to FP8 rounds to nearest even by itself.
        if self.codes.dtype is torch.int8:
            units_MK = torch.round(units_MK)
        # Static scales do not cover every activation, and a division may round up beyond the max.
        return units_MK.clamp(-self._highest, self._highest).to(self.codes.dtype), scale


class Float8Linear(Int8Linear):
    """FP8 weight and FP8 activation, each with per-channel (per-token) or per-tensor scales."""

    kernel = "torch._scaled_mm"

    def forward(self, input: Tensor) -> Tensor:
        """Return `[.., N]` of `[.., K]`."""
        codes_MK, scale = self.quantize_activation(input)
        # Both sides have vectors of scales, or both have one number.
        vectors = self.scale.numel() > 1 or scale.numel() > 1
        if vectors:
            left = scale.expand(len(codes_MK), 1).contiguous()
            right = self.scale.view(1, -1).expand(1, self.out_features).contiguous()
        else:
            left, right = scale.view(()), self.scale.view(())
        # CUDA kernels with vectors of scales have no float32 output.
        narrow = input.device.type == "cuda" and vectors
        y_MN = torch._scaled_mm(  # noqa: SLF001 - torch has no public name for it
            codes_MK,
            self.codes.t(),
            scale_a=left,
            scale_b=right,
            out_dtype=torch.bfloat16 if narrow else torch.float32,
        )
        return self._finish(y_MN, input)
