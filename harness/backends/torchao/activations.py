"""The rounding of activations in torchao (0.18) as a format, so that the fake path computes it too.

    int8   s = max(absmax / 127.5, 2^-23)    q = clamp(round(x * (1 / s)), -128, 127)
    fp8    s = absmax / 448                  q = e4m3(x / s)          a token of zeros is NaN

The scale is computed in the type of the activation. In a bfloat16 model it has 8 bits, which moves
large INT8 codes by up to half a step.

Why INT8 runs differ visibly: the largest activation of a token lies at 127.5, a tie between two
codes. Where it is negative, its last bit decides between -127 and -128, and another order of a sum
moves that bit. Two such runs of SmolLM2 in float32 differ by 0.2 nat/token, while each layer, given
the same activation, gives the same output to 6e-8.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from harness.formats.base import NumberFormat
from harness.formats.integer import Integer
from harness.formats.minifloat import E4M3
from harness.formats.native import Native
from harness.quant.granularity import Granularity
from harness.quant.scale import FloatScale
from harness.quant.schemes.block_scaled import BlockScaled
from harness.quant.tensor import Scales

SCALE_STORAGE = {torch.bfloat16: Native(name="bf16"), torch.float16: Native(name="fp16")}
"""Format of the scales, by type of the activation; any other type has float32 scales."""
SCALE_RULES = {
    "int8": FloatScale(reach="half_span", arithmetic="reciprocal", lowest=2.0**-23),
    "fp8": FloatScale(lowest=0.0),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class TorchaoInput:
    """Activations as torchao rounds them; see the module docstring and `TensorFormat`."""

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
        """INT8 with all 256 codes, or E4M3."""
        return Integer(bits=8, narrow=False) if self.kind == "int8" else E4M3

    @property
    def granularity(self) -> Granularity:
        """Rows of `[tokens, K]`, or the whole tensor."""
        return Granularity(block=(1 if self.per == "token" else -1, -1))

    def fit(self, x: Tensor) -> Scales:
        """Return scales rounded to the type of `x`."""
        return self._with(replace(SCALE_RULES[self.kind], storage=SCALE_STORAGE.get(x.dtype))).fit(
            x
        )

    def to_grid(
        self, x: Tensor, scales: Scales, generator: torch.Generator | None = None
    ) -> Tensor:
        """Divide by the scale (FP8) or multiply by its reciprocal (INT8), and round."""
        # Not with `storage`, where a scale of 0 makes zeros: torchao divides by it and makes NaN.
        return self._with(SCALE_RULES[self.kind]).to_grid(x, scales, generator)

    def _with(self, scale: FloatScale) -> BlockScaled:
        return BlockScaled(element=self.element, granularity=self.granularity, scale=scale)
