"""The error of a quantized tensor.

    MSE             sum (x - q)^2 / n
    relative error  |x - q| / |x|                   Frobenius norms
    SQNR [dB]       10 log10(|x|^2 / |x - q|^2)     = -20 log10(relative error)

x is the tensor as stored, q its dequantized form in float32; differences, squares and sums are
float64. `Error` keeps the sums, so that the errors of several tensors pool into the error of all
elements. A tensor with a NaN or an infinity, before or after quantization, has no score but a
problem.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

PIECE_ELEMENTS = 2**18
"""Elements that are compared at once: 2 MiB of float64."""
SUMS = ("n", "bits", "signal", "noise", "not_finite", "overflowed")


@dataclass(frozen=True, kw_only=True, slots=True)
class Error:
    """Sums over the elements of one or several tensors; see the module docstring."""

    n: int = 0
    """Number of elements."""
    bits: int = 0
    """Storage of codes and scales [bit]."""
    signal: float = 0.0
    """Sum of squares of the tensor."""
    noise: float = 0.0
    """Sum of squares of the differences."""
    max_abs: float = 0.0
    """Max abs difference."""
    not_finite: int = 0
    """Number of elements that are NaN or infinite in x."""
    overflowed: int = 0
    """Number of finite elements that become NaN or infinite in q."""
    overflow_from: float = math.inf
    """The smallest magnitude of an overflowed element."""

    @property
    def problem(self) -> str | None:
        """Why there is no score, or None."""
        if self.n == 0:
            return "no elements"
        if self.not_finite:
            return f"no score: {self.not_finite} of {self.n} are NaN or Inf in the file"
        if self.overflowed:
            return (
                f"no score: {self.overflowed} of {self.n} overflow to NaN or Inf, "
                f"the smallest of them {self.overflow_from:g}"
            )
        if self.max_abs > 0 and (self.noise == 0 or self.signal == 0):
            return "no score: a sum of squares is 0 in float64"
        return None

    @property
    def exact(self) -> bool:
        """Whether q equals x in every element."""
        return self.problem is None and self.max_abs == 0

    @property
    def mse(self) -> float:
        """Mean squared error."""
        return self.noise / self.n

    @property
    def relative(self) -> float:
        """Relative error: norm of the differences over norm of the tensor."""
        return 0.0 if self.exact else math.sqrt(self.noise / self.signal)

    @property
    def sqnr(self) -> float:
        """Signal-to-quantization-noise ratio [dB]; infinite if exact."""
        return math.inf if self.exact else 10 * math.log10(self.signal / self.noise)

    @property
    def bits_per_element(self) -> float:
        """Storage, scales included [bit]; NaN without elements."""
        return self.bits / self.n if self.n else math.nan


def compare(x: Tensor, q: Tensor, bits: int) -> Error:
    """Return the error of `q` in place of `x`, of the same shape; `q` takes `bits` of storage."""
    pieces = zip(
        torch.split(x.flatten(), PIECE_ELEMENTS),
        torch.split(q.flatten(), PIECE_ELEMENTS),
        strict=True,
    )
    found = pool(_compare(part.double(), other.double()) for part, other in pieces)
    return replace(found, bits=bits)


def _compare(x: Tensor, q: Tensor) -> Error:
    if x.numel() == 0:
        return Error()
    finite = x.isfinite()
    lost = x[finite & ~q.isfinite()].abs()
    difference = q - x
    return Error(
        n=x.numel(),
        signal=float(x.square().sum()),
        noise=float(difference.square().sum()),
        max_abs=float(difference.abs().max()),
        not_finite=int((~finite).sum()),
        overflowed=len(lost),
        overflow_from=float(lost.min()) if len(lost) else math.inf,
    )


def pool(errors: Iterable[Error]) -> Error:
    """Return the error of the elements of all tensors together."""
    parts = list(errors)
    sums = (sum(getattr(part, name) for part in parts) for name in SUMS)
    return Error(
        **dict(zip(SUMS, sums, strict=True)),
        max_abs=max(part.max_abs for part in parts),
        overflow_from=min(part.overflow_from for part in parts),
    )
