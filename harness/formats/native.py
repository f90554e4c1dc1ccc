"""The floating-point types of torch: fp32 (the identity), bf16 and fp16.

Rounding is torch's cast: nearest even, and overflow to infinity (IEEE 754). Codes are bit patterns.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

TYPES = {
    "fp32": (torch.float32, torch.int32),
    "bf16": (torch.bfloat16, torch.int16),
    "fp16": (torch.float16, torch.int16),
}
"""Name -> type of the values, type of the codes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Native:
    """A type of torch as an element format; see `NumberFormat`."""

    name: Literal["fp32", "bf16", "fp16"]
    """The type: float32, bfloat16 or float16."""

    @property
    def bits(self) -> int:
        """32 or 16."""
        return self._dtype.itemsize * 8

    @property
    def max(self) -> float:
        """The largest finite value of the type."""
        return torch.finfo(self._dtype).max

    @property
    def _dtype(self) -> torch.dtype:
        return TYPES[self.name][0]

    def values(self) -> Tensor:
        """Raise ValueError: 2^16 or 2^32 values are too many to list."""
        raise ValueError(f"values are listed for at most 8 bits, got {self.name}")

    def round(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:  # noqa: ARG002
        """Cast to the type and back to float32."""
        return x.float().to(self._dtype).float()

    def encode(self, values: Tensor) -> Tensor:
        """Return the bit patterns as signed integers of the same width."""
        return values.to(self._dtype).view(TYPES[self.name][1])

    def decode(self, codes: Tensor) -> Tensor:
        """Return the values of bit patterns, float32."""
        return codes.view(self._dtype).float()
