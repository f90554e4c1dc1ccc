"""The contract of an element format.

An element format is a finite set of numbers and the rule that maps a real number to one of them. How such
numbers cover a tensor (scales, blocks) is the business of `harness.quant`.
"""

from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class NumberFormat(Protocol):
    """A finite set of numbers with round-to-nearest, ties to even.

    `round` is idempotent, monotone and saturating; it works in float32, keeps the shape, and passes NaN on.
    `decode(encode(x))` equals `round(x)` for every `x` that is not NaN.
    """

    @property
    def name(self) -> str:
        """The field's name of the format, such as `int8` or `fp8_e4m3fn`."""

    @property
    def bits(self) -> int:
        """Storage of one element [bits]."""

    @property
    def max(self) -> float:
        """The largest finite magnitude."""

    def values(self) -> Tensor:
        """Every finite value, ascending, without a second zero, float32."""

    def round(self, x: Tensor) -> Tensor:
        """Return the nearest value of the format for each element, float32, same shape."""

    def encode(self, x: Tensor) -> Tensor:
        """Return the code of the nearest value for each element, uint8, same shape."""

    def decode(self, codes: Tensor) -> Tensor:
        """Return the value of each code, float32, same shape."""
