"""What may be typed as a difference and as a share of flips."""

import math

import pytest

from harness.claims.measure import ACCURACY, KL, LOG_LOSS, Measure
from harness.errors import ConfigError
from harness.plan.delta import UNITS, read_delta, read_flip_rate


@pytest.mark.parametrize(
    ("text", "measure", "size"),
    [
        ("0.5pp", ACCURACY, 0.005),
        ("100pp", ACCURACY, 1.0),
        ("0.5%", LOG_LOSS, math.log(1.005)),
        ("0.01nat", LOG_LOSS, 0.01),
        ("1e-3nat", KL, 0.001),
    ],
)
def test_a_difference_has_the_unit_of_its_measure(text: str, measure: Measure, size: float) -> None:
    assert read_delta(text, measure) == pytest.approx(size, rel=1e-12)


@pytest.mark.parametrize("measure", UNITS)
@pytest.mark.parametrize("number", ["0.5", "0", "-1", "nan", "inf", "", "half", "1e999"])
def test_other_differences_are_refused_in_one_sentence(measure: Measure, number: str) -> None:
    for text in (number, *(number + unit for unit in UNITS[measure] if number != "0.5")):
        with pytest.raises(ConfigError, match="delta must be a difference above 0") as refused:
            read_delta(text, measure)
        assert f"got {text!r}" in str(refused.value)
        assert all(f"delta=0.5{unit}" in str(refused.value) for unit in UNITS[measure])


@pytest.mark.parametrize(
    ("text", "measure"),
    [("0.5%", ACCURACY), ("101pp", ACCURACY), ("0.5pp", LOG_LOSS), ("0.5%", KL)],
)
def test_pp_and_percent_are_different_units(text: str, measure: Measure) -> None:
    with pytest.raises(ConfigError, match="got '"):
        read_delta(text, measure)


@pytest.mark.parametrize(("text", "share"), [("5%", 0.05), ("100%", 1.0), ("0.1%", 0.001)])
def test_a_share_of_flips_is_a_percentage(text: str, share: float) -> None:
    assert read_flip_rate(text) == pytest.approx(share)


@pytest.mark.parametrize("text", ["200%", "0%", "-5%", "0.05", "5", "5pp", "nan%", "%", "few%"])
def test_other_shares_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="flip_rate must be a share of the answers"):
        read_flip_rate(text)
