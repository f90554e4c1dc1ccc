"""What torchao (0.18) rounds the inputs of a layer to, as a format of ours: the fake path then computes what the real one does.

    int8   s = max(absmax / 127.5, 2^-23)    q = clamp(round(x * (1 / s)), -128, 127)
    fp8    s = absmax / 448                  q = e4m3(x / s)          a token of zeros is NaN

The scale is computed in the type of the input, so that in a bfloat16 model it has 8 bits: more than a detail, since it moves
large INT8 codes by up to half a step. The largest INT8 input of a token lies at 127.5, a tie: where it is negative, the last
bit of the input decides between -127 and -128. Two runs that differ in the order of a sum therefore differ visibly: SmolLM2
in float32 by 0.2 nat a token, while every layer, given the same input, gives the same output to 6e-8.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from harness.formats.base import NumberFormat
from harness.formats.integer import Integer
from harness.formats.native import Native
from harness.quant.granularity import Granularity
from harness.quant.scale import FloatScale
from harness.quant.schemes.block_scaled import BlockScaled
from harness.quant.schemes.nvfp4 import E4M3
from harness.quant.tensor import Scales

STORAGE = {torch.bfloat16: Native(name="bf16"), torch.float16: Native(name="fp16")}
SCALES = {
    "int8": FloatScale(reach="half_span", arithmetic="reciprocal", lowest=2.0**-23),
    "fp8": FloatScale(lowest=0.0),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class TorchaoInput:
    """Dynamic scales in the type of what is rounded; see the module docstring and `TensorFormat`."""

    kind: Literal["int8", "fp8"]
    """INT8 or FP8 (E4M3) codes."""
    per: Literal["token", "tensor"]
    """What shares a scale."""

    @property
    def name(self) -> str:
        """`int8_token_torchao`."""
        return f"{self.kind}_{self.per}_torchao"

    @property
    def element(self) -> NumberFormat:
        """All 256 integers, or E4M3."""
        return Integer(bits=8, narrow=False) if self.kind == "int8" else E4M3

    @property
    def granularity(self) -> Granularity:
        """Rows of `[tokens, K]`, or the whole."""
        return Granularity(block=(1 if self.per == "token" else -1, -1))

    def fit(self, x: Tensor) -> Scales:
        """Return scales of as many bits as a number of `x` has."""
        return self._under(replace(SCALES[self.kind], storage=STORAGE.get(x.dtype))).fit(x)

    def to_grid(
        self, x: Tensor, scales: Scales, generator: torch.Generator | None = None
    ) -> Tensor:
        """Divide by the scale, or multiply by its reciprocal, and round."""
        return self._under(SCALES[self.kind]).to_grid(x, scales, generator)

    def _under(self, scale: FloatScale) -> BlockScaled:
        return BlockScaled(element=self.element, granularity=self.granularity, scale=scale)
