"""Formats without scales: numbers are cast. bf16, fp16, HiF8, and fp32, the identity."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from harness.formats.base import NumberFormat
from harness.quant.granularity import Granularity
from harness.quant.tensor import Scales


@dataclass(frozen=True, kw_only=True, slots=True)
class Unscaled:
    """Rounds each number by itself; see `TensorFormat`."""

    granularity: ClassVar[Granularity] = Granularity(block=(1, 1))

    element: NumberFormat
    """Number format of each element."""

    @property
    def name(self) -> str:
        """The name of the element."""
        return self.element.name

    def fit(self, x: Tensor) -> Scales:  # noqa: ARG002
        """Return no scales."""
        return Scales()

    def to_grid(
        self,
        x: Tensor,
        scales: Scales,  # noqa: ARG002
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Round each number."""
        return self.element.round(x, generator)
