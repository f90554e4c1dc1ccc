"""Linear layers that keep their weight as 8-bit codes and scales, and multiply with them.

    W8A8, INT8       y = (q(x) . q(W)^T) * s_x * s_w        integer products, summed exactly in int32 (torch._int_mm)
    W8A8, FP8        the same on torch._scaled_mm           float products, summed in float32
    weight-only      y = x . (q(W) * s_w)^T                 dequantized a block of rows at a time
    weight-only INT8 y = (sum_d 256^d (x_d . q(W)^T)) * s_x * s_w

The last has no float weight at all: the input is written as a fixed-point number of two or three 8-bit digits `x_d`, each of
which is a row of one integer product. A processor with 8-bit dot products (AVX512-VNNI) multiplies so eight times as fast as in
bfloat16. Two digits hold an input to 2^-16 of the largest in its row: for 16-bit models that lies below the rounding of the
output; float32 models take three. For the few rows of a decode step torch has a product of its own,
`torch._weight_int8pack_mm`, of which a frozen compiled graph makes one that reads the codes as fast as memory gives them.

Shapes: `N` output and `K` input features, `M` tokens.
"""

from collections.abc import Callable
from functools import cache
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.formats.float32 import SMALLEST_NORMAL
from harness.quant.tensor import QuantizedTensor

INT8_MAX = 127.0
FP8_MAX = {torch.float8_e4m3fn: 448.0, torch.float8_e5m2: 57344.0}
DIGITS = {torch.bfloat16: 2, torch.float16: 2, torch.float32: 3}
"""8-bit digits that hold an input, by the type of the model."""
FEW_ROWS = 4
"""Up to so many rows torch's weight-only product is the faster one, with 16-bit inputs (Xeon with AVX512-VNNI)."""
LEAST_ROWS_ON_GPU = 17
"""`torch._int_mm` takes no fewer on CUDA."""
BLOCK = {"cpu": 2**20, "cuda": 2**26}
"""Weights that are dequantized at once, by type of device."""


class StoredLinear(nn.Module):
    """Codes `[N, K]`, their scales `[N / n, K / k]` (float32) and a bias."""

    codes: Tensor
    scale: Tensor
    bias: Tensor | None
    may_freeze = False
    """A compiler may treat it as constant: it cannot be folded into a float weight, and is no slower for it."""

    def __init__(self, weight: QuantizedTensor, bias: Tensor | None, code: torch.dtype) -> None:
        super().__init__()
        plane = weight.scales.combined()
        self.out_features, self.in_features = weight.shape
        self.block = plane.granularity.sizes(weight.shape)
        self.register_buffer("codes", weight.codes.contiguous().view(code))
        self.register_buffer("scale", plane.values.float().contiguous())
        self.register_buffer("bias", None if bias is None else bias.detach())

    def rows(self, start: int, stop: int) -> Tensor:
        """Return rows of the weight as float32: the values that the codes stand for."""
        tall, wide = self.block
        scale = self.scale[start // tall : -(-stop // tall)]
        if tall > 1 and len(scale) > 1:
            first = start % tall
            scale = scale.repeat_interleave(tall, 0)[first : first + stop - start]
        if scale.shape[1] > 1:
            scale = scale.repeat_interleave(wide, 1)[:, : self.in_features]
        return self.codes[start:stop].float() * scale

    def dequantize(self) -> Tensor:
        """Return the whole weight, float32 `[N, K]`."""
        return self.rows(0, self.out_features)

    @property
    def stored_bytes(self) -> int:
        """Memory of codes and scales [byte]."""
        return self.codes.nbytes + self.scale.nbytes

    def extra_repr(self) -> str:
        """Say the shape and the types."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, codes={self.codes.dtype}, "
            f"scales={tuple(self.scale.shape)}, bias={self.bias is not None}"
        )

    def _finish(self, y_MN: Tensor, x: Tensor) -> Tensor:
        """Add the bias in float32, round once to the type of the input and give it its leading axes back."""
        if self.bias is not None:
            y_MN = y_MN + self.bias
        return y_MN.to(x.dtype).reshape(*x.shape[:-1], self.out_features)


class WeightOnlyLinear(StoredLinear):
    """Any 8-bit weight, any granularity; the input stays as it is."""

    kernel = "dequantize by rows + torch.nn.functional.linear"

    def forward(self, input: Tensor) -> Tensor:
        """Return `[.., N]` of `[.., K]`."""
        step = max(1, BLOCK.get(input.device.type, BLOCK["cpu"]) // self.in_features)
        starts = range(0, self.out_features, step)
        parts = [
            F.linear(input, self.rows(n, min(n + step, self.out_features)).to(input.dtype))
            for n in starts
        ]
        y = parts[0] if len(parts) == 1 else torch.cat(parts, -1)
        return y if self.bias is None else y + self.bias


class Int8WeightLinear(StoredLinear):
    """INT8 weight with a scale a row or a tensor; the input stays as it is. See the module docstring."""

    kernel = "torch._weight_int8pack_mm (few rows), torch._int_mm on digits of the input"
    ones: Tensor
    may_freeze = True

    def __init__(self, weight: QuantizedTensor, bias: Tensor | None, code: torch.dtype) -> None:
        super().__init__(weight, bias, code)
        # Scales are applied in float32 afterwards: the product would take them only in the type of the input.
        self.register_buffer("ones", _ones(self.out_features, self.codes.device), persistent=False)

    def forward(self, input: Tensor) -> Tensor:
        """Return `[.., N]` of `[.., K]`."""
        x_MK = input.reshape(-1, self.in_features)
        if len(x_MK) <= FEW_ROWS and input.dtype is torch.bfloat16:
            y_MN = torch._weight_int8pack_mm(x_MK, self.codes, self.ones).float()  # noqa: SLF001
        else:
            y_MN = _digit_product(x_MK.float(), self.codes, DIGITS[input.dtype])
        return self._finish(y_MN * self.scale.view(1, -1), input)


@cache
def _ones(count: int, device: torch.device) -> Tensor:
    """Return ones that all layers of a size share."""
    return torch.ones(count, dtype=torch.bfloat16, device=device)


def _digit_product(x_MK: Tensor, codes_NK: Tensor, num: int) -> Tensor:
    """Return `x codes^T`, float32 `[M, N]`, through integer products of `num` digits of each input."""
    # The largest number whose balanced digits all lie in -128 .. 127.
    highest = INT8_MAX * (256**num - 1) / 255
    scale_M1 = (x_MK.abs().amax(-1, keepdim=True) / highest).clamp(min=SMALLEST_NORMAL)
    # The division may round up to a number that has a digit too many.
    rest_MK = torch.round(x_MK / scale_M1).clamp(-highest, highest)
    digits = []
    for _ in range(num - 1):
        higher_MK = torch.floor((rest_MK + 128) / 256)
        digits.append(rest_MK - 256 * higher_MK)
        rest_MK = higher_MK
    stacked = torch.cat([rest_MK, *reversed(digits)]).to(torch.int8)
    sums = int_mm(stacked, codes_NK).float().view(num, len(x_MK), len(codes_NK))
    y_MN: Tensor = sums[0]
    for lower in sums[1:]:
        y_MN = y_MN * 256 + lower
    product: Tensor = y_MN * scale_M1
    return product


class Int8Linear(StoredLinear):
    """INT8 weight and INT8 input, each with a scale a row or a tensor."""

    kernel = "torch._int_mm"  # frozen, torch packs the codes for a product that takes eight times as long for one row
    input_scale: Tensor | None

    def __init__(
        self,
        weight: QuantizedTensor,
        bias: Tensor | None,
        code: torch.dtype,
        input_scale: Tensor | None = None,
        *,
        per: Literal["token", "tensor"] = "token",
    ) -> None:
        """Take `input_scale` `[1, 1]` for static scales; None fits one to each token, or to all of a call."""
        super().__init__(weight, bias, code)
        self.register_buffer("input_scale", input_scale)
        self._per = per

    def forward(self, input: Tensor) -> Tensor:
        """Return `[.., N]` of `[.., K]`."""
        x_MK = input.reshape(-1, self.in_features).float()
        scale = _scale(x_MK, self.input_scale, self._per, INT8_MAX)
        codes_MK = torch.round(x_MK / scale).clamp(-INT8_MAX, INT8_MAX).to(torch.int8)
        sums_MN = int_mm(codes_MK, self.codes).float()
        return self._finish(sums_MN * scale * self.scale.view(1, -1), input)


class Float8Linear(Int8Linear):
    """FP8 weight and FP8 input, each with a scale a row or a tensor."""

    kernel = "torch._scaled_mm"

    def forward(self, input: Tensor) -> Tensor:
        """Return `[.., N]` of `[.., K]`."""
        code = self.codes.dtype
        x_MK = input.reshape(-1, self.in_features).float()
        scale = _scale(x_MK, self.input_scale, self._per, FP8_MAX[code])
        codes_MK = (x_MK / scale).clamp(-FP8_MAX[code], FP8_MAX[code]).to(code)
        # Scales are all of rows or all of tensors. CUDA kernels with scales of rows give bfloat16 only.
        rows = self.scale.numel() > 1 or scale.numel() > 1
        left = scale.expand(len(x_MK), 1).contiguous() if rows else scale.view(())
        right = self.scale.view(1, -1).expand(1, self.out_features) if rows else self.scale.view(())
        narrow = input.device.type == "cuda" and rows
        y_MN = torch._scaled_mm(  # noqa: SLF001 - torch has no public name for it
            codes_MK,
            self.codes.t(),
            scale_a=left,
            scale_b=right.contiguous(),
            out_dtype=torch.bfloat16 if narrow else torch.float32,
        )
        return self._finish(y_MN, input)


def _scale(
    x_MK: Tensor, static: Tensor | None, per: Literal["token", "tensor"], highest: float
) -> Tensor:
    """Return the scale of each token `[M, 1]`, or one for all `[1, 1]`."""
    if static is not None:
        return static
    absmax = x_MK.abs().amax(-1, keepdim=True) if per == "token" else x_MK.abs().amax().view(1, 1)
    return (absmax / highest).clamp(min=SMALLEST_NORMAL)


def int_mm(a_MK: Tensor, b_NK: Tensor) -> Tensor:
    """Return the exact product `a b^T` of int8 matrices, int32 `[M, N]`."""
    rows = len(a_MK)
    if a_MK.device.type == "cuda" and rows < LEAST_ROWS_ON_GPU:
        a_MK = F.pad(a_MK, (0, 0, 0, LEAST_ROWS_ON_GPU - rows))
    product: Tensor = torch._int_mm(a_MK, b_NK.t())  # noqa: SLF001 - torch has no public name for it
    return product[:rows]


def overflow(
    device: torch.device, multiply: Callable[[Tensor, Tensor], Tensor] = int_mm
) -> str | None:
    """Return what is wrong with integer products of extreme codes on a device, or None if they are exact.

    Processors without 8-bit dot products may add pairs of products in 16 bits, which saturate.
    """
    for a, b in ((-128, -128), (-128, 127), (127, 127)):
        left = torch.full((32, 4096), a, dtype=torch.int8, device=device)
        right = torch.full((16, 4096), b, dtype=torch.int8, device=device)
        found, exact = int(multiply(left, right).long().sum()), a * b * 4096 * 32 * 16
        if found != exact:
            return (
                f"products of INT8 codes must be exact, got {found} instead of {exact} for {a} times {b} on this processor, which "
                "saturates their sums; choose a recipe with float inputs, or its fake-quantized form"
            )
    return None
