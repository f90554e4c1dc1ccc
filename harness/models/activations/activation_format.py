"""Round activations to the format that a quantized checkpoint names.

    q  = round(x / s + z), clamped to the range of the element
    x' = (q - z) s

A scale s is stored in the checkpoint (static), or fitted to each block of an activation (dynamic).
Dynamic scales are those of the kernels that serve such checkpoints:

    symmetric integers   absmax / (2^(b-1) - 1), as in vLLM and in the recipes of this project.
                         compressed-tensors itself divides by (2^b - 1) / 2, to use the lowest code
    FP8                  absmax / 448
    zero points          (max - min) / (2^b - 1), with 0 between min and max
    NVFP4                absmax / 6 rounded to E4M3, in units of one stored scale a layer
    MX                   2^(floor(log2 absmax) - emax); twice that where absmax is close to the next
                         power of two (`CARRY`)

The arithmetic is float32 for models of every type.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.formats.minifloat import Minifloat

Blocks = Literal["tensor", "token", "group"]
FLOAT_ELEMENTS = {
    4: Minifloat(exponent_bits=2, mantissa_bits=1),
    6: Minifloat(exponent_bits=2, mantissa_bits=3),
    8: Minifloat(exponent_bits=4, mantissa_bits=3, specials="nan"),
}
"""E2M1, E2M3 and E4M3, by bits."""
LARGEST_EXPONENT = {4: 2, 6: 2, 8: 8}
"""Exponent emax of the largest number: 6 = 1.5 * 2^2, 7.5 = 1.875 * 2^2, 448 = 1.75 * 2^8."""
CARRY = {4: 0.875, 6: 0.96875, 8: 0.875}
"""An MX scale takes the next power of two from this f on, where absmax = f 2^e with f in [1/2, 1).

E2M1 and E2M3: rounding f to the mantissa of the element carries into the exponent. E4M3: f is that
of the largest number, 448 = 0.875 * 2^9, as compressed-tensors has it."""
SMALLEST_NVFP4_SCALE = 0.125
"""Replaces an NVFP4 block scale that E4M3 rounds to 0, so that nothing is divided by 0."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ActivationFormat:
    """Rounds activations `[.., K]`; the module docstring has the arithmetic."""

    kind: Literal["int", "float"]
    bits: int
    blocks: Blocks
    """The elements that share a scale."""
    group_size: int = 0
    """Elements of a group; 0 for other blocks."""
    symmetric: bool = True
    scale: Tensor | None = None
    """Static scale, which broadcasts against the activations; None: one is fitted to each block."""
    zero_point: Tensor | None = None
    """Static zero point."""
    outer_scale: Tensor | None = None
    """NVFP4: block scales are stored in units of `1 / outer_scale`."""
    is_mx: bool = False
    """Scales are powers of two."""

    def __post_init__(self) -> None:
        """Check that stored scales are finite and positive; others make every activation NaN."""
        for what, scale in (("scale", self.scale), ("outer scale", self.outer_scale)):
            if scale is not None and not (scale.float().isfinite() & (scale.float() > 0)).all():
                raise ValueError(f"a stored {what} of activations that is not finite and above 0")

    @property
    def name(self) -> str:
        """The format in words, such as `int8 by token`. Records hold it."""
        where = f"in groups of {self.group_size}" if self.blocks == "group" else f"by {self.blocks}"
        zero = "" if self.symmetric else ", asymmetric"
        kind = "fp" if self.kind == "float" else self.kind
        return f"{kind}{self.bits} {where}{zero}{', static' if self.scale is not None else ''}"

    def __call__(self, x: Tensor) -> Tensor:
        """Return `x` rounded to the format; same shape and type."""
        values = x.float() if self.scale is not None else self._in_blocks(x.float())
        scale, zero = self._fit(values)
        # Quantize, clamp, dequantize.
        rounded = (self._element(values / scale + zero) - zero) * scale
        if self.blocks == "group":
            rounded = rounded.flatten(-2)[..., : x.shape[-1]]
        return rounded.reshape(x.shape).to(x.dtype)

    def _in_blocks(self, x: Tensor) -> Tensor:
        """Reshape `x` so that all elements along the last axis share a scale."""
        if self.blocks == "tensor":
            return x.reshape(-1)
        if self.blocks == "group":
            # Pad a short last group with zeros, which change no scale.
            whole = F.pad(x, (0, -x.shape[-1] % self.group_size))
            return whole.reshape(*x.shape[:-1], -1, self.group_size)
        return x

    def _fit(self, blocks: Tensor) -> tuple[Tensor, Tensor]:
        """Return scale and zero point, both broadcasting against `blocks`."""
        none = blocks.new_zeros(())
        if self.scale is not None:
            zero = none if self.zero_point is None else self.zero_point.to(none)
            return self.scale.to(none), zero
        if not self.symmetric:
            # Extend the range to 0, so that 0 has a code of its own.
            low = blocks.amin(-1, keepdim=True).clamp(max=0)
            high = blocks.amax(-1, keepdim=True).clamp(min=0)
            scale = _not_zero((high - low) / (2**self.bits - 1))
            return scale, (-(2 ** (self.bits - 1)) - low / scale).round()
        largest = blocks.abs().amax(-1, keepdim=True)
        if self.is_mx:
            return _power_of_two(largest, self.bits), none
        if self.outer_scale is not None:
            # absmax / 6 in units of 1 / outer, rounded to E4M3.
            outer = self.outer_scale.to(none)
            scale = FLOAT_ELEMENTS[8].round(outer * (largest / FLOAT_ELEMENTS[self.bits].max))
            return _not_zero(scale, SMALLEST_NVFP4_SCALE) / outer, none
        top = 2 ** (self.bits - 1) - 1 if self.kind == "int" else FLOAT_ELEMENTS[self.bits].max
        return _not_zero(largest / top), none

    def _element(self, x: Tensor) -> Tensor:
        if self.kind == "float":
            return FLOAT_ELEMENTS[self.bits].round(x)
        half = 2 ** (self.bits - 1)
        return x.round().clamp(-half, half - 1)


def _not_zero(scale: Tensor, instead: float = 1.0) -> Tensor:
    """Replace scales of 0, which a block of zeros has: nothing can be divided by 0."""
    return torch.where(scale == 0, instead, scale)


def _power_of_two(largest: Tensor, bits: int) -> Tensor:
    """Return the MX scales of blocks, given their absmax. A block of zeros may have any scale."""
    fraction, exponent = torch.frexp(largest)  # largest = fraction 2^exponent, fraction in [1/2, 1)
    exponent = exponent - 1 + (fraction >= CARRY[bits]).int() - LARGEST_EXPONENT[bits]
    # E8M0 stores exponents from -127 to 127.
    return torch.ldexp(torch.ones_like(largest), exponent.clamp(-127, 127))
