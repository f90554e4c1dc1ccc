"""A plan in words."""

from dataclasses import dataclass

import numpy as np
import pytest

from harness.claims.measure import ACCURACY, LOG_LOSS
from harness.plan import assumed_flips, observed
from harness.plan.plan import Basis, Plan, Samples, other_size
from harness.plan.sentences import NO_BASIS, duration, one_line, page
from harness.stats import Clusters
from harness.stats.difference import of_tokens


@dataclass(frozen=True)
class Tenths:
    """A tenth of a second a sample, for all sizes of at least 100."""

    source: str = "as a run on file"

    def is_near(self, num_items: int) -> bool:
        return num_items >= 100

    def seconds_for(self, num_items: int) -> float:
        return num_items / 10


FLIPS = Basis(expected=assumed_flips(0.05), fact="5 % of the answers flip", is_assumed=True)


def of_questions(num: int, delta: float) -> Plan:
    return Plan(
        what="mmlu",
        measure=ACCURACY,
        delta=delta,
        samples=Samples(num_items=num, available=14_042),
        basis=FLIPS,
        times=Tenths(),
    )


def test_the_issue_s_example_of_a_page() -> None:
    assert page(of_questions(1000, 0.005)).splitlines() == [
        "mmlu",
        "",
        "To see a difference of 0.5 pp with a chance of 80 %: about 15,700 questions, more than the "
        "14,042 there are.",
        "This run, 1,000 questions of 14,042, can show a difference of 1.98 pp or more.",
        "All 14,042 can show a difference of 0.529 pp or more.",
        "This assumes that 5 % of the answers flip; flip_rate=... assumes another share.",
        "Time here: about 2 min for this run, about 23 min for 14,042 questions; as a run on file.",
        "This is for one comparison at 5 %. Of 12, corrected by Holm, each takes about 27,500 "
        "questions at worst, and this run can show a difference of 2.62 pp or more.",
    ]


def test_a_difference_above_the_flip_rate_says_that_it_takes_more_flips() -> None:
    said = "A difference of 10 pp takes that share of flips at least: its number assumes it.\n"
    assert said in page(of_questions(1000, 0.1))
    assert "takes that share of flips" not in page(of_questions(1000, 0.05))


def test_a_run_of_all_is_not_compared_with_all() -> None:
    shown = page(of_questions(14_042, 0.01))
    assert "This run, 14,042 questions, can show a difference of 0.529 pp or more.\n" in shown
    assert "All 14,042" not in shown
    assert "about 7 min for 3,920 questions" in shown, "the time of what the difference takes"


def test_a_text_is_counted_in_tokens_and_windows() -> None:
    sums = np.random.default_rng(1).normal(size=20) * 10
    expected = observed(of_tokens(Clusters(sums, np.full(20, 1000.0))))
    assert expected is not None
    basis = Basis(expected=expected, fact="a and b over 20,000 tokens", is_assumed=False)
    samples = Samples(num_items=4095, available=None, items_per_window=63)
    plan = Plan(
        what="perplexity",
        measure=LOG_LOSS,
        delta=0.005,
        samples=samples,
        basis=basis,
        times=Tenths(),
    )
    shown = page(plan)
    assert "This run, 4,095 tokens (65 windows), can show no difference: there are too few" in shown
    assert "This is by runs on file: a and b over 20,000 tokens.\n" in shown
    assert other_size(samples, basis, 0.005) == expected.needed(0.005)
    unknown = Plan(
        what="perplexity",
        measure=LOG_LOSS,
        delta=0.005,
        samples=samples,
        basis=None,
        times=Tenths(),
    )
    assert page(unknown).splitlines()[2:] == [
        NO_BASIS,
        "Time here: about 7 min for this run; as a run on file.",
    ]


def test_the_line_before_a_run_has_what_is_known() -> None:
    shown = one_line(ACCURACY, 1000, FLIPS, Tenths())
    assert shown == (
        "1,000 questions can show a difference of 1.98 pp or more (assuming that 5 % of the answers "
        "flip); about 2 min, as a run on file"
    )
    assert one_line(ACCURACY, 50, None, Tenths()) == "at most 5 s, as a run on file"
    few = one_line(ACCURACY, 4, FLIPS, None)
    assert few is not None
    assert few.startswith("4 questions can show no difference: there are too few of them (")
    assert one_line(ACCURACY, 4, None, None) is None
    assert one_line(ACCURACY, None, FLIPS, Tenths()) is None


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "1 s"), (64.0, "64 s"), (91.0, "2 min"), (3000.0, "50 min"), (5460.0, "1.5 h")],
)
def test_times_have_one_or_two_digits(seconds: float, words: str) -> None:
    assert duration(seconds) == words
