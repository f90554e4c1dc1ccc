"""Numbers in cells: value, precision, unit, and whether an error stands beside the number."""

import re
from dataclasses import dataclass

_GAP = "[, \u00a0\u2009\u202f]"
"""What stands between thousands."""
_NUMBER = rf"[-+]?(?:\d{{1,3}}(?:{_GAP}\d{{3}})+(?!\d)|\d+(?!,\d))(?:\.\d+)?(?:[eE][-+]?\d+)?"
_CELL = re.compile(
    rf"^[^\w+\-.(\[]*(?P<number>{_NUMBER})(?:\s*(?P<unit>%|pp\b|[x倍](?!\s*\d)))?(?P<rest>.*)$",
    re.DOTALL,
)
_REST = re.compile(r"\s(?!x\s*\d)|[(\[±,;*↑↓]|$")
"""What may follow a number and its unit; a letter or a slash makes it part of a name."""
_LEAST = 1e-300
"""Smaller numbers than this one, and larger ones than its inverse, have no exact arithmetic."""
_RANGE = re.compile(r"\s*(?:\.\.|-|to\b|~)")
_SPREAD = re.compile(r"±|\+/-|\[[^\]]*[,;][^\]]*\]|\d\s*%?\s*\.\.\s*[-+]?\d|IQR|CI")


@dataclass(frozen=True, slots=True)
class Quantity:
    """A printed number."""

    value: float
    half: float
    """Half a unit of the last printed digit: the number stands for value +- half."""
    unit: str
    """`%`, `pp`, `x`, or nothing."""
    is_signed: bool
    """Whether a sign is printed."""
    text: str
    """The number and its unit as printed."""

    @property
    def decimals(self) -> int:
        """Number of printed decimals."""
        return len(re.split("[eE]", self.text)[0].partition(".")[2].rstrip(" %xp倍"))


def quantity(cell: str) -> Quantity | None:
    """Return the number that a cell begins with; None for a name, a range or a shape."""
    found = _CELL.match(cell)
    if found is None or not _REST.match(found["rest"]) or _RANGE.match(found["rest"]):
        return None
    number = re.sub(_GAP, "", found["number"])
    if not _LEAST < abs(float(number)) < 1 / _LEAST and float(number) != 0:
        return None
    digits, _, exponent = number.lower().partition("e")
    decimals = len(digits.partition(".")[2]) - int(exponent or 0)
    unit = (found["unit"] or "").replace("倍", "x")
    return Quantity(
        value=float(number),
        half=0.5 * 10.0**-decimals,
        unit=unit,
        is_signed=number[0] in "+-",
        text=f"{found['number']}{' ' * (unit in ('%', 'pp'))}{unit}",
    )


def has_spread(cell: str) -> bool:
    """Say whether a cell has an interval or an error beside, or in the place of, its number."""
    return _SPREAD.search(cell) is not None
