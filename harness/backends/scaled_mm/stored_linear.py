"""Linear layers that keep the weight as 8-bit codes and scales, and multiply with a float copy.

How it works
    `StoredLinear` holds codes `[N, K]` and one float32 scale per block. `WeightOnlyLinear`
    dequantizes some rows of the weight, multiplies, and goes on with the next rows:

        y = x (codes * scale)^T + bias

Dtype choice
    Scales stay in float32 whatever the model's type, and codes are multiplied in float32: the
    weight is rounded once, from the exact value to the activation's type. The fake path rounds the
    same value to the same type, so that both multiply the very same numbers.

Layout rules
    N output channels, K input channels, M tokens; a suffix such as `x_MK` names the axes. Codes are
    contiguous. Blocks may be of any size, and the last one of an axis may be short.

Trade-off
    Memory is that of the codes. Speed is not: each call reads codes and writes floats.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.quant.tensor import QuantizedTensor

CODE_TYPES = {
    "int8": torch.int8,
    "int8_full": torch.int8,
    "fp8_e4m3fn": torch.float8_e4m3fn,
    "fp8_e5m2": torch.float8_e5m2,
}
"""torch's type of the codes, by name of the element format."""
DEQUANTIZED_AT_ONCE = {"cpu": 2**20, "cuda": 2**26}
"""Weights that are dequantized at a time, by type of device: 4 MiB of float32 on a CPU; a GPU wants
few and large kernels."""


class StoredLinear(nn.Module):
    """Codes `[N, K]`, their scales `[N / n, K / k]` for blocks `n x k` (float32), and a bias."""

    kernel: str
    """What multiplies; see `Installed`."""
    codes: Tensor
    scale: Tensor
    bias: Tensor | None
    may_freeze = False
    """A compiler may treat the codes as constants: they cannot be folded into a float weight, and
    the layer is no slower for it."""

    def __init__(self, weight: QuantizedTensor, bias: Tensor | None) -> None:
        super().__init__()
        # Formats with two levels of scales become one: their product, at the finest granularity.
        plane = weight.scales.combined()
        self.out_features, self.in_features = weight.shape
        # Sizes with -1 filled in, such as (1, 4096) for per-channel scales.
        self.block = plane.granularity.sizes(weight.shape)
        # The same bytes, seen as numbers that torch can multiply.
        codes = weight.codes.contiguous().view(CODE_TYPES[weight.element.name])
        self.register_buffer("codes", codes)
        self.register_buffer("scale", plane.values.float().contiguous())
        # A buffer too: nothing here has a gradient.
        self.register_buffer("bias", None if bias is None else bias.detach())

    def rows(self, start: int, stop: int) -> Tensor:
        """Return rows `start .. stop` of the dequantized weight, float32."""
        block_rows, block_columns = self.block
        # Blocks that the rows lie in, the last one whole.
        scale = self.scale[start // block_rows : -(-stop // block_rows)]
        # One scale per row. A single block broadcasts over all rows by itself.
        if block_rows > 1 and len(scale) > 1:
            first = start % block_rows
            scale = scale.repeat_interleave(block_rows, 0)[first : first + stop - start]
        # One scale per column; the cut ends a short last block.
        if scale.shape[1] > 1:
            scale = scale.repeat_interleave(block_columns, 1)[:, : self.in_features]
        return self.codes[start:stop].float() * scale

    def dequantize(self) -> Tensor:
        """Return the whole weight, float32 `[N, K]`."""
        return self.rows(0, self.out_features)

    @property
    def stored_bytes(self) -> int:
        """Memory of codes and scales [byte]."""
        return self.codes.nbytes + self.scale.nbytes

    def extra_repr(self) -> str:
        """Return shape and types for `print(model)`."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"codes={self.codes.dtype}, scales={tuple(self.scale.shape)}, "
            f"bias={self.bias is not None}"
        )

    def _finish(self, y_MN: Tensor, x: Tensor) -> Tensor:
        """Add the bias in float32, round once to the type of `x`, restore its leading axes."""
        if self.bias is not None:
            y_MN = y_MN + self.bias
        return y_MN.to(x.dtype).reshape(*x.shape[:-1], self.out_features)


class WeightOnlyLinear(StoredLinear):
    """Weights of any 8-bit format and granularity, float activations."""

    kernel = "dequantize by rows + torch.nn.functional.linear"

    def forward(self, input: Tensor) -> Tensor:
        """Return `[.., N]` of `[.., K]`."""
        at_once = DEQUANTIZED_AT_ONCE.get(input.device.type, DEQUANTIZED_AT_ONCE["cpu"])
        step = max(1, at_once // self.in_features)
        # Each part is [.., rows]: output channels that few rows of the weight make.
        parts = [
            F.linear(input, self.rows(n, min(n + step, self.out_features)).to(input.dtype))
            for n in range(0, self.out_features, step)
        ]
        y = parts[0] if len(parts) == 1 else torch.cat(parts, -1)
        # In the type of the activation, to which each part is rounded already.
        return y if self.bias is None else y + self.bias
