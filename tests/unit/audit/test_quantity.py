"""Numbers in cells, and cells that are none."""

import pytest

from harness.audit.quantity import has_spread, quantity


@pytest.mark.parametrize(
    ("cell", "value", "half", "unit"),
    [
        ("50.90", 50.9, 0.005, ""),
        ("+0.30%", 0.3, 0.005, "%"),
        ("-1.10 pp", -1.1, 0.005, "pp"),
        ("2.31x", 2.31, 0.005, "x"),
        ("2 倍", 2, 0.5, "x"),
        ("1,000 questions", 1000, 0.5, ""),
        ("2 000", 2000, 0.5, ""),
        ("12\u202f345.6 tok/s", 12345.6, 0.05, ""),
        ("1,234,567", 1234567, 0.5, ""),
        ("1.2e-07", 1.2e-7, 0.05e-7, ""),
        ("25.7 (IQR 1.26, n = 10)", 25.7, 0.05, ""),
        ("🥇 1", 1, 0.5, ""),
        ("5.47 ± 0.03", 5.47, 0.005, ""),
    ],
)
def test_a_number_has_its_value_its_precision_and_its_unit(
    cell: str, value: float, half: float, unit: str
) -> None:
    found = quantity(cell)
    assert found is not None
    assert (found.value, found.half, found.unit) == (value, pytest.approx(half), unit)


@pytest.mark.parametrize(
    "cell",
    ["", "-", "INT8", "16x512", "5/6", "23.76 % .. 29.22 %", "8-bit", "3.1.2", "int4_g64", "10,50"],
)
def test_names_shapes_and_ranges_are_no_numbers(cell: str) -> None:
    assert quantity(cell) is None


def test_what_stands_for_an_error() -> None:
    with_error = ["5.47 ± 0.03", "+0.2 % (+0.1 % .. +0.3 %)", "1.04 [0.99, 1.09]", "9 (IQR 1)"]
    assert all(map(has_spread, with_error))
    assert not any(map(has_spread, ["5.47", "8.008 (1.001 bytes)", "[link]", "-"]))
