"""Symmetric integers of 2 to 8 bits.

The grid is `-qmax .. qmax` with `qmax = 2^(bits-1) - 1`: the most negative two's-complement code is left out
("restricted range"), so that a weight and its negation always have the same error. Codes are two's complement
in one byte.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Integer:
    """The integers `-(2^(bits-1) - 1) .. 2^(bits-1) - 1`; see `NumberFormat`."""

    bits: int

    def __post_init__(self) -> None:
        """Refuse widths whose codes do not fit one byte."""
        if not 2 <= self.bits <= 8:
            raise ValueError(f"bits must be 2..8, got {self.bits}")

    @property
    def name(self) -> str:
        """`int8`, `int4`, ..."""
        return f"int{self.bits}"

    @property
    def max(self) -> float:
        """`2^(bits-1) - 1`."""
        return float(2 ** (self.bits - 1) - 1)

    def values(self) -> Tensor:
        """Return all `2^bits - 1` integers, ascending."""
        return torch.arange(-self.max, self.max + 1, dtype=torch.float32)

    def round(self, x: Tensor) -> Tensor:
        """Round half to even, saturate; NaN stays NaN."""
        return x.float().round().clamp_(-self.max, self.max)

    def encode(self, x: Tensor) -> Tensor:
        """Return two's-complement codes; NaN, which an integer cannot hold, becomes 0."""
        return self.round(x).nan_to_num_(nan=0.0).to(torch.int8).view(torch.uint8)

    def decode(self, codes: Tensor) -> Tensor:
        """Return the integers as float32."""
        return codes.view(torch.int8).float()
