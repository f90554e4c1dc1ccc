"""How columns of differences were made."""

import pytest

from harness.audit.derivation import Derivation
from harness.audit.operation import Operation
from harness.audit.study import study


def derived(header: str, *cells: str) -> Derivation | None:
    """Return how the third column of a table of perplexities was made."""
    values = ("10.00", "12.50", "8.00", "20.00")
    names = ("BF16", "one", "two", "three")
    rows = [f"| {' | '.join(row)} |" for row in zip(names, values, ("-", *cells), strict=True)]
    text = "\n".join([f"| scheme | PPL | {header} |", "|---|---|---|", *rows])
    found = study(text)
    return next(iter(found.derivations[1]), None)


@pytest.mark.parametrize(
    ("header", "cells", "operation"),
    [
        ("difference", ("+2.50", "-2.00", "+10.00"), Operation.DIFFERENCE),
        ("drop", ("-2.5", "2.0", "-10.0"), Operation.LOSS),
        ("relative", ("+25.0 %", "-20.0 %", "+100.0 %"), Operation.RELATIVE),
        ("degradation", ("-25 %", "20 %", "-100 %"), Operation.RELATIVE_LOSS),
        ("ratio", ("1.25x", "0.80x", "2.00x"), Operation.RATIO),
        ("speed-up", ("0.80", "1.25", "0.50"), Operation.INVERSE),
        ("recovery", ("125 %", "80 %", "200 %"), Operation.SHARE),
        ("change [nat]", ("+0.223", "-0.223", "+0.693"), Operation.LOG_RATIO),
    ],
)
def test_the_operation_is_found(header: str, cells: tuple[str, ...], operation: Operation) -> None:
    found = derived(header, *cells)
    assert found is not None
    assert (found.operation, found.base_row, found.num_right) == (operation, 0, 3)


def test_one_wrong_row_does_not_hide_the_operation() -> None:
    found = derived("difference", "+2.50", "-3.00", "+10.00")
    assert found is not None
    assert [step.is_right for step in found.steps] == [True, False, True]


def test_differences_from_a_value_outside_of_the_table() -> None:
    found = derived("difference", "+3.50", "-1.00", "+11.00")
    assert found is not None
    assert found.is_against_outsider
    assert found.steps[0].reference.value == 9.0


def test_a_column_that_nothing_explains_is_left_alone() -> None:
    assert derived("gain", "+0.1", "+7.3", "-4.4") is None
