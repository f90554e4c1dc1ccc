"""The bounds of `scripts/check_vllm.py`: which differences between two engines pass."""

import sys

import numpy as np
import pytest
from repository import ROOT

from harness.results.record import SampleScore

sys.path.append(str(ROOT / "scripts"))

import check_vllm

WINDOWS = np.linspace(2.0, 4.0, 40).reshape(4, 10)


@pytest.mark.parametrize(
    ("moved", "close"),
    [
        ([0.0, 0.0, 0.0, 0.0], True),
        ([0.019, 0.019, 0.019, 0.019], True),
        ([-0.019, 0.0, 0.0, 0.0], True),
        ([0.03, -0.03, 0.03, -0.03], False),  # the first window alone, not all together
        ([-0.03, 0.0, 0.0, 0.0], False),
        ([0.0, 0.1, 0.0, 0.0], False),  # all together, not the first window
        ([float("nan"), 0.0, 0.0, 0.0], False),
    ],
)
def test_the_first_window_and_all_windows_have_a_bound(moved: list[float], *, close: bool) -> None:
    found = check_vllm.compared("a and b", WINDOWS + np.array(moved)[:, None], WINDOWS)
    assert check_vllm.is_close(found) is close


def test_answers_are_paired_by_id_and_count_where_a_letter_leads() -> None:
    def sample(name: str, answer: str, lead: float) -> SampleScore:
        scores = {f"log_prob_{letter}": -2.0 for letter in "ABCD"} | {"log_prob_A": -2.0 + lead}
        return SampleScore(id=name, cluster="s", answer=answer, scores=scores)

    other = {name: sample(name, "A", lead) for name, lead in [("q", 0.6), ("r", 0.1), ("s", 0.7)]}
    asked = {"q": sample("q", "A", 0.0), "r": sample("r", "B", 0.0), "s": sample("s", "C", 0.0)}
    assert check_vllm.paired(asked, other) == {
        "questions": 3,
        "equal": 1,
        "clear": 2,
        "clear_and_equal": 1,
    }
