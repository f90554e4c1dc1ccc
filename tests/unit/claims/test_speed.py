"""Claims about speed: what they are made from, and what takes them away."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import builders
import numpy as np
import pytest
from filed import file_with_samples
from scipy import stats as scipy_stats
from timed_rounds import rounds_of, timed

from harness.claims import speed_words
from harness.claims.at_once import at_once
from harness.claims.grouping import Group, comparable
from harness.claims.speed import Speed, of_run, speeds
from harness.results.record import Metric, RunRecord, SampleScore
from harness.results.store import ResultStore, Stored

MakeRecord = Callable[..., RunRecord]
Ratio = tuple[float, float, float]
"""A ratio and its interval."""
FASTER: Ratio = (1.5, 1.4, 1.6)


@pytest.fixture
def file(make_record: MakeRecord, tmp_path: Path) -> Callable[..., Stored]:
    """A function that files a timed run of a recipe, with rounds that give its ratios."""

    def made(
        recipe: str,
        ratios: Mapping[str, Ratio],
        *,
        rounds: int = 10,
        drift: float = 0.01,
        samples: Sequence[SampleScore] | None = None,
        **facts: Any,
    ) -> Stored:
        def number(name: str, value: float, ci95: tuple[float, float] | None = None) -> Metric:
            return builders.metric(name, value, n=rounds, n_of="round", ci95=ci95)

        metrics = (
            number("decode", 50.0),
            *(number(name, value, (low, high)) for name, (value, low, high) in ratios.items()),
            number("baseline_drift", drift),
        )
        record = make_record(recipe, task="throughput", metrics=metrics, backend="b", **facts)
        record = record.model_copy(update={"recipe": recipe})
        kept = rounds_of(metrics, rounds) if samples is None else samples
        return file_with_samples(tmp_path, record, kept)

    return made


def group_of(tmp_path: Path) -> Group:
    (group,) = comparable(ResultStore(root=tmp_path).load()[0])
    return group


def only(tmp_path: Path) -> Speed:
    (found,) = speeds(group_of(tmp_path))
    return found


def test_p_is_wilcoxon_s_of_the_rounds_whatever_their_order_on_file(
    file: Callable[..., Stored], tmp_path: Path
) -> None:
    random = np.random.default_rng(0)
    float_s, recipe_s = random.lognormal(0.03, 0.05, 12), random.lognormal(0.0, 0.05, 12)
    samples = [
        *list(timed("float", "decode", float_s.tolist()))[::-1],
        *timed("recipe", "decode", recipe_s.tolist()),
        *timed("recipe", "prefill", [7.0] * 12),
        SampleScore(id="float/warm_up/0", cluster="w", scores={"seconds": 9.0}),
    ]
    file("int8_row", {"decode_ratio": (1.03, 0.99, 1.06)}, samples=samples)
    expected = scipy_stats.wilcoxon(np.log(float_s), np.log(recipe_s)).pvalue
    assert only(tmp_path).own_p == pytest.approx(expected, rel=1e-12)


def test_a_family_is_a_phase_of_the_group(file: Callable[..., Stored], tmp_path: Path) -> None:
    of_recipes: list[Mapping[str, Ratio]] = [
        {"decode_ratio": FASTER, "prefill_ratio": FASTER, "prefill_ratio_float32": FASTER},
        {"decode_ratio": (1.01, 0.9, 1.1), "prefill_ratio": (0.8, 0.7, 0.9)},
    ]
    for index, ratios in enumerate(of_recipes):
        file(f"int{index + 2}_row", ratios)
    found = speeds(group_of(tmp_path))
    assert [(each.phase, each.num_tests) for each in found] == [
        *[("decode", 2)] * 2,
        *[("prefill", 3)] * 3,
    ]
    least = 2.0**-9  # of 10 rounds that all agree
    assert [each.p for each in found if each.phase == "prefill"] == pytest.approx([3 * least] * 3)
    decode = {each.row.label: each for each in found if each.phase == "decode"}
    assert decode["int2_row"].p == pytest.approx(2 * least)
    assert [str(each.verdict) for each in decode.values()] == ["faster", "cannot tell"]


@pytest.mark.parametrize(
    ("ratio", "drift", "verdict"),
    [
        ((1.04, 1.03, 1.05), 0.029, "faster"),
        ((1.04, 1.03, 1.05), 0.031, "cannot tell"),
        ((1.05, 1.04, 1.06), 0.031, "faster"),
        ((1.05, 1.04, 1.06), -0.045, "cannot tell"),
        ((0.96, 0.95, 0.965), -0.031, "slower"),
        ((0.96, 0.95, 0.975), -0.031, "cannot tell"),
    ],
)
def test_an_unstable_run_claims_only_what_is_beyond_its_drift(
    file: Callable[..., Stored], tmp_path: Path, ratio: Ratio, drift: float, verdict: str
) -> None:
    file("int8_row", {"decode_ratio": ratio}, drift=drift)
    found = only(tmp_path)
    assert str(found.verdict) == verdict
    is_unstable = abs(drift) > 0.03
    assert ("the run is unstable" in speed_words.sentence([found])) is is_unstable
    assert (found.why_not is not None) is (is_unstable and verdict == "cannot tell")


def test_too_few_rounds_for_so_many_comparisons_are_named(
    file: Callable[..., Stored], tmp_path: Path
) -> None:
    for bits in range(2, 28):
        file(f"int{bits}_row", {"decode_ratio": FASTER})
    found = speeds(group_of(tmp_path))
    assert {str(each.verdict) for each in found} == {"cannot tell"}
    assert {each.why_not for each in found} == {"10 rounds are too few for 26 comparisons"}


@pytest.mark.parametrize(
    "samples",
    [
        [SampleScore(id=str(i), cluster="c", scores={"correct": 1.0}) for i in range(10)],
        [SampleScore(id=str(i), cluster="c", scores={"seconds": 1.0}) for i in range(10)],
        [*timed("recipe", "decode", [1.0] * 10)],
    ],
)
def test_a_record_without_times_of_both_models_has_no_test(
    file: Callable[..., Stored], tmp_path: Path, samples: list[SampleScore]
) -> None:
    file("int8_row", {"decode_ratio": FASTER}, samples=samples)
    found = only(tmp_path)
    assert (found.p, str(found.verdict)) == (None, "cannot tell")
    assert str(found.why_not).startswith("no test: the record does not have the times")
    assert speed_words.to_native({("decode", "native"): found}, "decode") == (
        "1.500 [1.400, 1.600], no test"
    )


def test_missing_samples_are_named(file: Callable[..., Stored], tmp_path: Path) -> None:
    stored = file("int8_row", {"decode_ratio": FASTER})
    assert stored.record.samples_file is not None
    (stored.path.parent / stored.record.samples_file).unlink()
    assert str(only(tmp_path).why_not).startswith("no test: ")


def test_a_run_says_its_claims_at_once_from_the_first_recipe_on(
    file: Callable[..., Stored], tmp_path: Path
) -> None:
    ratios = {"decode_ratio": FASTER, "prefill_ratio": (1.01, 0.98, 1.05)}
    first = file("int8_row", ratios)
    said = at_once(first, ResultStore(root=tmp_path).load()[0])
    assert said == [
        "int8_row / float: decode 1.500 [1.400, 1.600] of native products, faster (p = 0.002); "
        "prefill 1.010 [0.980, 1.050] of native products, cannot tell (p = 0.13); "
        "signed ranks of 10 rounds"
    ]
    second = file("int4_row", {"decode_ratio": FASTER})
    assert at_once(second, ResultStore(root=tmp_path).load()[0]) == [
        "int4_row / float: decode 1.500 [1.400, 1.600] of native products, faster (p = 0.0039); "
        "signed ranks of 10 rounds; Holm over 2 comparisons of decode"
    ]


def test_an_unquantized_model_claims_nothing(file: Callable[..., Stored], tmp_path: Path) -> None:
    stored = file("none", {}, samples=[*timed("float", "decode", [1.0] * 10)])
    assert speeds(group_of(tmp_path)) == []
    assert at_once(stored, [stored]) == []
    assert speed_words.to_native(of_run([], "x"), "decode") == "-"
    assert speed_words.to_faster(of_run([], "x"), "decode") == "-"
