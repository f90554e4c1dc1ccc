"""Codes of formats of at most 8 bits, by table.

A format gives the value of each code, and decoding is a look-up. Encoding is a look-up too: a value
of an 8-bit float has at most 8 significant bits, so the upper half of its float32 pattern (its
bfloat16 pattern) identifies it exactly. A table of 65536 bytes maps that pattern to the code. One
table serves tapered and biased formats alike, with no arithmetic on fields.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class CodeTable:
    """Code to value and value to code, for values that bfloat16 holds exactly."""

    by_code: Tensor
    """float32 `[n]`: the value of each code, NaN for a code without a number."""
    by_pattern: Tensor
    """uint8 `[65536]`: the code of each bfloat16 pattern that is a value of the format."""

    @classmethod
    def of(cls, by_code: Tensor) -> "CodeTable":
        """Build both tables from the value of each code; no two codes may have the same value."""
        patterns = _upper_half(by_code)
        by_pattern = torch.zeros(2**16, dtype=torch.uint8)
        codes = torch.arange(len(by_code), dtype=torch.int32).to(torch.uint8)
        nan = by_code.isnan()
        # Negative zero. Formats without one use the code of zero; formats with one overwrite this.
        zero = codes[by_code == 0]
        by_pattern[0x8000] = zero[0] if len(zero) else 0
        # Numbers and infinities.
        by_pattern[patterns[~nan]] = codes[~nan]
        # NaN: if there are several codes, the all-ones one with the sign of the input.
        if nan.any():
            positive = codes[nan & (torch.arange(len(by_code)) < len(by_code) // 2)]
            by_pattern[0xFF81:] = codes[nan][-1]
            by_pattern[0x7F81:0x8000] = positive[-1] if len(positive) else codes[nan][-1]
        return cls(by_code, by_pattern)

    def encode(self, values: Tensor) -> Tensor:
        """Return the codes of values of the format, uint8, same shape."""
        index = _upper_half(values).flatten()
        table = self.by_pattern.to(values.device)
        return table.index_select(0, index).view(values.shape)

    def decode(self, codes: Tensor) -> Tensor:
        """Return the value of each code, float32, same shape."""
        table = self.by_code.to(codes.device)
        return table.index_select(0, codes.flatten().int()).view(codes.shape)

    def finite(self) -> Tensor:
        """Return the finite values in ascending order, each once."""
        # -0.0 + 0.0 is 0.0: the two zeros become one.
        values: Tensor = torch.unique(self.by_code[self.by_code.isfinite()] + 0.0)
        return values


def _upper_half(values: Tensor) -> Tensor:
    """Return the bfloat16 pattern of each float32 as an index, int32."""
    return (values.contiguous().view(torch.int32) >> 16) & 0xFFFF
