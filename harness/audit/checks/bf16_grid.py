"""Columns whose values are bfloat16 codes: the last step of the evaluation was rounded to 8 bits.

A bfloat16 has 8 significant bits. A loss in [2, 4) moves in steps of 1/64, which is 1.6 % of a
perplexity, and a perplexity in [32, 64) in steps of 0.25. Printed figures show it: all of them are
images of such codes. How likely that is by accident follows from how many of the numbers that could
be printed in their range are images.
"""

import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import NamedTuple

from harness.audit.derivation import Derivation
from harness.audit.finding import Fault, Finding
from harness.audit.quantity import Quantity
from harness.audit.sheet import ColumnKind, Sheet
from harness.audit.study import Study
from harness.messages import plural
from harness.stats.bfloat16 import bf16

_CHANCE = 1e-3
"""Columns with a larger chance of an accident are not reported."""
_FEWEST = 3
"""Fewer different values are not reported."""
_COARSE = 2
"""Differences of so many steps are within the rounding of both values."""


class Grid(NamedTuple):
    """What may have been rounded to bfloat16."""

    words: str
    image: Callable[[float], float]
    """From a bfloat16 to the value that is printed."""
    code: Callable[[float], float]
    """From a printed value back to about the bfloat16."""


_OF_PERPLEXITY = (
    Grid("bfloat16 exponentials", lambda x: bf16(math.exp(x)), math.log),
    Grid("exponentials", math.exp, math.log),
    Grid("bfloat16 numbers", lambda x: x, lambda x: x),
)
_OF_LOSS = (Grid("bfloat16 numbers", lambda x: x, lambda x: x),)
_GRIDS = {ColumnKind.PERPLEXITY: _OF_PERPLEXITY, ColumnKind.LOSS: _OF_LOSS}


def bf16_values(study: Study) -> Iterator[Finding]:
    """Yield tables whose perplexities or losses are all on a bfloat16 grid."""
    for sheet in study.sheets:
        for kind, grids in _GRIDS.items():
            values = {each.text: each for each in _cells(sheet, kind) if each.value > 0}
            if len(values) < _FEWEST:
                continue
            for grid in grids:
                chance = _chance(grid, list(values.values()))
                if chance is None or chance >= _CHANCE:
                    continue
                text = _text(grid, kind, sorted(values.values(), key=_value), chance)
                yield Finding(sheet.line, Fault.BFLOAT16, text)
                for each in study.derivations[sheet.line]:
                    if each.source.kind is kind:
                        yield from _coarse(sheet, grid, each)
                break


def _cells(sheet: Sheet, kind: ColumnKind) -> list[Quantity]:
    return [
        value
        for column in sheet.values
        if column.kind is kind
        for row in sheet.filled(column, without=sheet.means)
        if (value := column.quantities[row]) is not None
    ]


def _chance(grid: Grid, values: list[Quantity]) -> float | None:
    """Return the chance that all values are on a grid by accident; None if one is not."""
    if not all(_on_grid(grid, each) for each in values):
        return None
    low, high = min(map(_value, values)), max(map(_value, values))
    half = max(each.half for each in values)
    # The range of the values, and a step beyond each end.
    step = max(_step(grid, low), _step(grid, high))
    first, last = max(low - step, 2 * half), high + step
    images = {round(grid.image(code) / (2 * half)) for code in _codes(grid, first, last)}
    share = min(1.0, len(images) * 2 * half / (last - first))
    return share ** len(values)


def _on_grid(grid: Grid, value: Quantity) -> bool:
    near = grid.code(value.value)
    step = _spacing(near)
    nearest = bf16(near) if near > 0 else 0.0
    codes = (bf16(nearest + move * step) for move in (-1, 0, 1) if nearest + move * step > 0)
    return any(abs(grid.image(code) - value.value) <= value.half * (1 + 1e-9) for code in codes)


def _codes(grid: Grid, low: float, high: float) -> Iterator[float]:
    code = bf16(max(grid.code(low), 1e-3))
    while grid.image(code) <= high:
        yield code
        code += _spacing(code)


def _spacing(value: float) -> float:
    """Return the distance from a bfloat16 to the next."""
    return math.ldexp(1.0, math.frexp(value)[1] - 8)


def _step(grid: Grid, value: float) -> float:
    """Return how far apart printed values on a grid are."""
    code = grid.code(value)
    return max(grid.image(code + _spacing(code)) - value, 0.0)


def _value(quantity: Quantity) -> float:
    return quantity.value


def _text(grid: Grid, kind: ColumnKind, values: list[Quantity], chance: float) -> str:
    codes = [bf16(grid.code(each.value)) for each in values]
    apart = [round((b - a) / _spacing(a)) for a, b in pairwise(codes)]
    shown = ", ".join(each.text for each in values)
    losses = ", ".join(f"{code:.7g}" for code in codes)
    of_losses = f" of the bfloat16 losses {losses}" if grid.code is math.log else ""
    return (
        f"all {len(values)} values of {kind} ({shown}) are {grid.words}{of_losses}, "
        f"{', '.join(map(str, apart))} {plural('step', apart[-1])} apart; numbers with as many "
        f"digits are so by accident with a chance of {chance:.0e}. Differences of a step or two "
        "show nothing"
    )


def _coarse(sheet: Sheet, grid: Grid, found: Derivation) -> Iterator[Finding]:
    """Yield differences of two steps or less, with what the printed values may stand for."""
    for step in found.steps:
        codes = [bf16(grid.code(each.value)) for each in (step.value, step.reference)]
        apart = round(abs(codes[0] - codes[1]) / _spacing(min(codes)))
        if apart > _COARSE:
            continue
        value, reference = (_stands_for(grid, code) for code in codes)
        what = (
            f"one code of the grid: both values are any {found.source.kind} from {value}"
            if apart == 0
            else f"{apart} {plural('step', apart)} of the grid: {step.value.text} is any "
            f"{found.source.kind} from {value}, {step.reference.text} any from {reference}"
        )
        yield Finding(
            sheet.rows[step.row].line,
            Fault.BFLOAT16,
            f"{found.column.header} of {sheet.name(step.row)}: {step.printed.text} is {what}",
        )


def _stands_for(grid: Grid, code: float) -> str:
    """Return the range of values that are rounded to a code."""
    half = _spacing(code) / 2
    ends = (code - half, code + half)
    low, high = map(math.exp, ends) if grid.code is math.log else ends
    return f"{low:.4g} to {high:.4g}"
