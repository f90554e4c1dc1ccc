"""What a column of differences or ratios computes from a value and its reference."""

import math
from enum import StrEnum


class Operation(StrEnum):
    """What was computed from a value and its reference."""

    DIFFERENCE = "difference"
    LOSS = "reference minus value"
    RELATIVE = "relative change"
    RELATIVE_LOSS = "relative loss"
    RATIO = "ratio"
    INVERSE = "inverse ratio"
    SHARE = "share in percent"
    LOG_RATIO = "logarithm of the ratio"

    def of(self, value: float, reference: float) -> float:
        """Return the result; NaN where there is none."""
        if self is Operation.DIFFERENCE:
            return value - reference
        if self is Operation.LOSS:
            return reference - value
        if value <= 0 or reference <= 0:
            return math.nan
        ratio = value / reference
        return {
            Operation.RELATIVE: 100 * (ratio - 1),
            Operation.RELATIVE_LOSS: 100 * (1 - ratio),
            Operation.RATIO: ratio,
            Operation.INVERSE: 1 / ratio,
            Operation.SHARE: 100 * ratio,
            Operation.LOG_RATIO: math.log(ratio),
        }[self]

    @property
    def is_difference(self) -> bool:
        """Whether the result has the unit of the values."""
        return self in (Operation.DIFFERENCE, Operation.LOSS)

    def shown(self, value: str, reference: str, result: float, decimals: int) -> str:
        """Return the arithmetic, such as `50.90 - 50.60 = +0.30`."""
        left = {
            Operation.DIFFERENCE: f"{value} - {reference}",
            Operation.LOSS: f"{reference} - {value}",
            Operation.RELATIVE: f"{value} / {reference} - 1",
            Operation.RELATIVE_LOSS: f"1 - {value} / {reference}",
            Operation.RATIO: f"{value} / {reference}",
            Operation.INVERSE: f"{reference} / {value}",
            Operation.SHARE: f"{value} / {reference}",
            Operation.LOG_RATIO: f"ln({value} / {reference})",
        }[self]
        in_percent = (Operation.RELATIVE, Operation.RELATIVE_LOSS, Operation.SHARE)
        unit = " %" if self in in_percent else ""
        sign = "" if self in (Operation.RATIO, Operation.INVERSE, Operation.SHARE) else "+"
        return f"{left} = {result:{sign}.{decimals}f}{unit}"
