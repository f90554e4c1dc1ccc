"""FP8 E4M3FN: 1 sign, 4 exponent and 3 mantissa bits, bias 7, no infinities.

OCP 8-bit Floating Point Specification (OFP8) revision 1.0, table 1: the largest finite value is 448 = 2^8 * 1.75,
the smallest subnormal is 2^-9, and NaN is the one pattern S.1111.111. Rounding is torch's cast, which is
nearest-even; what it does above 448 changed between torch releases, so values are clamped before it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class E4M3FN:
    """FP8 with 4 exponent and 3 mantissa bits, finite except for NaN; see `NumberFormat`."""

    @property
    def name(self) -> str:
        """`fp8_e4m3fn`."""
        return "fp8_e4m3fn"

    @property
    def bits(self) -> int:
        """Eight."""
        return 8

    @property
    def max(self) -> float:
        """448."""
        return 448.0

    def values(self) -> Tensor:
        """Return the 253 finite values, ascending."""
        decoded = self.decode(torch.arange(256, dtype=torch.uint8))
        finite: Tensor = torch.unique(decoded[decoded.isfinite()])
        return finite

    def round(self, x: Tensor) -> Tensor:
        """Round to nearest even, saturate at 448; NaN stays NaN."""
        return self.decode(self.encode(x))

    def encode(self, x: Tensor) -> Tensor:
        """Return the bit patterns S.EEEE.MMM."""
        return x.float().clamp(-self.max, self.max).to(torch.float8_e4m3fn).view(torch.uint8)

    def decode(self, codes: Tensor) -> Tensor:
        """Return the value of each bit pattern; 0x7f and 0xff are NaN."""
        return codes.view(torch.float8_e4m3fn).float()
