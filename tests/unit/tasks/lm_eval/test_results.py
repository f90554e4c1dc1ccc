"""lm-eval's results become metrics, samples and warnings; hand-made ones, counted by hand."""

import math
from typing import Any

import pytest

from harness.errors import InvalidResult
from harness.results.record import Metric, Unit
from harness.tasks.lm_eval import results as lm_eval_results

T = 2.7764451051977987
"""The 97.5 % point of Student's t with 4 degrees of freedom."""


def test_log_probability_that_is_not_finite_is_an_invalid_result() -> None:
    entry = {
        "doc_id": 0,
        "filter": "none",
        "metrics": ["acc"],
        "acc": 1.0,
        "resps": [[(-1.0, False)], [(math.nan, False)]],
        "filtered_resps": [(-1.0, False), (math.nan, False)],
    }
    with pytest.raises(InvalidResult, match="document t/0"):
        lm_eval_results.samples({"t": [entry]})


def test_number_that_a_filter_makes_of_a_text_is_no_likelihood() -> None:
    entry = {
        "doc_id": 3,
        "filter": "length",
        "metrics": ["right"],
        "right": 1.0,
        "resps": [["a text", "a text"]],
        "filtered_resps": [6.0],
    }
    (sample,) = lm_eval_results.samples({"t": [entry]})
    assert sample.scores == {"right/length": 1.0}
    assert (sample.cluster, sample.answer) == ("t", "a text")


def test_warnings_that_differ_in_numbers_alone_are_one() -> None:
    heard = ["cut 3 of 7", "cut 12 of 7", "odd\nlong text"]
    assert lm_eval_results.warnings(heard) == (
        "lm-eval: cut 3 of 7 (the first of 2 like it)",
        "lm-eval: odd",
    )


@pytest.mark.parametrize(
    ("name", "value", "unit"),
    [
        ("acc", 0.5, Unit.FRACTION),
        ("prompt_level_strict_acc", 0.5, Unit.FRACTION),
        ("exact_match", 1.0, Unit.FRACTION),
        ("acc", 50.0, Unit.ONE),
        ("word_perplexity", 0.5, Unit.ONE),
        ("brier_score", 0.5, Unit.ONE),
        ("bits_per_byte", 0.5, Unit.BIT_PER_BYTE),
    ],
)
def test_unit_goes_by_the_name(name: str, value: float, unit: Unit) -> None:
    assert results_of(name, value)[0].unit is unit


def results_of(name: str, value: Any, error: Any = "N/A", num: int = 5) -> tuple[Metric, ...]:
    found = {
        "results": {"t": {"alias": "t", f"{name},none": value, f"{name}_stderr,none": error}},
        "higher_is_better": {"t": {name: True}},
        "n-samples": {"t": {"effective": num}},
    }
    return lm_eval_results.metrics(found, ["t"])


@pytest.mark.parametrize(
    ("value", "error", "num", "interval", "note"),
    [
        (0.5, 0.1, 5, (0.5 - T * 0.1, 0.5 + T * 0.1), None),
        (0.9, 0.1, 5, (0.9 - T * 0.1, 1.0), None),
        (0.1, 0.1, 5, (0.0, 0.1 + T * 0.1), None),
        (0.5, "N/A", 5, None, "has no standard error"),
        (1.0, 0.0, 5, None, "all documents score the same"),
        (0.5, 0.1, 4, None, "fewer than 5 documents"),
        (math.nan, 0.1, 5, None, "lm-eval gives nan"),
        ("N/A", "N/A", 5, None, "lm-eval gives N/A"),
    ],
)
def test_interval_or_why_there_is_none(
    value: Any, error: Any, num: int, interval: tuple[float, float] | None, note: str | None
) -> None:
    (found,) = results_of("acc", value, error, num)
    assert found.ci95 == (interval and pytest.approx(interval))
    assert (found.note is None) if note is None else note in (found.note or "")


def test_half_of_the_replies_are_choices_with_mutual_information() -> None:
    entry = {
        "doc_id": 0,
        "filter": "none",
        "metrics": ["acc", "acc_mutual_info"],
        "acc": 1.0,
        "acc_mutual_info": 0.0,
        "resps": [[(-3.0, False)], [(-2.0, False)], [(-1.0, False)], [(-0.5, False)]],
    }
    (sample,) = lm_eval_results.samples({"t": [entry]})
    assert sample.answer == "1"
