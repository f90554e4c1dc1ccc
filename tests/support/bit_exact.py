"""A format bit for bit, with the overflow that `quantize` and `fake_quantize` do not allow."""

import torch

from harness.quant.primitives import encode, fit
from harness.quant.tensor import (
    QuantizedTensor,
    Scales,
    TensorFormat,
    move_blocks_last,
    restore_axis,
)


def codes_of(
    x: torch.Tensor, fmt: TensorFormat, generator: torch.Generator | None = None
) -> QuantizedTensor:
    """Return what `quantize` does."""
    return encode(x, fmt, fit(x, fmt), generator=generator)


def values_of(x: torch.Tensor, fmt: TensorFormat, scales: Scales | None = None) -> torch.Tensor:
    """Return what `fake_quantize` does, float32."""
    flat = fmt.granularity.flat
    scales = fit(x, fmt) if scales is None else scales
    return restore_axis(
        scales.apply(fmt.to_grid(move_blocks_last(x, -1, flat=flat), scales)),
        x.shape,
        -1,
        flat=flat,
    )
