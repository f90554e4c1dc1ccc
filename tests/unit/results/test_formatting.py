"""How numbers are written."""

from typing import get_args

import pytest
from builders import metric

from harness.results.formatting import (
    MISSING,
    STYLES,
    Style,
    show,
    show_bounds,
    show_interval,
    show_with_interval,
    si,
)


def test_a_metric_is_written_in_the_style_of_its_unit() -> None:
    share = metric(value=0.4915, unit="fraction", ci95=(0.46, 0.5221))
    assert show(share) == "49.15 %"
    assert show_interval(share) == "46.00 % .. 52.21 %"
    assert show(metric(value=14.0625)) == "14.0625"
    assert show(metric(value=0.000123)) == "0.000123"


@pytest.mark.parametrize(
    ("value", "style", "text"),
    [
        (3.0, "count", "3"),
        (1234.4, "rate", "1,234"),
        (0.0123, "ms", "12.3"),
        (1_650_000.0, "MB", "1.65 MB"),
        (0.456, "1 decimal %", "45.6 %"),
        (-0.013, "signed %", "-1.3 %"),
        (0.01, "relative", "+1.000 %"),
        (-0.01, "pp", "-1.00 pp"),
        (0.3, "signed", "+0.30000"),
        (0.000709, "exponent", "7.09e-04"),
        (1.23456, "3 digits", "1.23"),
        (1.23456, "4 digits", "1.235"),
    ],
)
def test_styles(value: float, style: Style, text: str) -> None:
    assert show(metric(value=value), style) == text
    assert show_interval(metric(ci95=(value, value)), style) == f"{text} .. {text}"
    assert show_bounds((value, value), style) == f"{text} .. {text}"


def test_every_style_has_a_writer() -> None:
    assert set(STYLES) == set(get_args(Style))


def test_what_is_missing_is_said_once() -> None:
    absent = metric(value=None, note="not measured")
    for found in (None, absent):
        assert [show(found), show_interval(found), show_with_interval(found, "4 digits")] == [
            MISSING
        ] * 3
    assert show_bounds(None, "pp") == MISSING
    assert show_with_interval(metric(), "4 digits") == "7.062"
    assert show_with_interval(metric(ci95=(6.5, 7.75)), "4 digits") == "7.062 [6.5, 7.75]"


def test_numbers_with_a_prefix_have_three_digits() -> None:
    expected = {0.5: "0.5 ", 999.4: "999 ", 999.6: "1 k", 269e6: "269 M", 1.2345e12: "1.23 T"}
    assert {value: si(value) for value in expected} == expected
