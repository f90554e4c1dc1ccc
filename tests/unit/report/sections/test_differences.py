"""Differences in tables: paired, with an interval or McNemar's p, and the verdict of these."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import builders
import numpy as np
import pytest
from scipy import stats as scipy_stats
from statsmodels.stats.contingency_tables import mcnemar

from harness.claims import Answered, answer, comparable
from harness.report.sections.granularity import formats_by_granularity
from harness.report.sections.mmlu import direct_against_generate
from harness.report.sections.ranking import ranking
from harness.report.sections.section import Section
from harness.results.outdated import without_narrow_intervals
from harness.results.record import Metric, RunRecord, SampleScore, Unit
from harness.results.store import ResultStore

MakeRecord = Callable[..., RunRecord]
LENGTHS = (300, 120, 240, 60, 310, 90, 200, 150)
File = Callable[..., None]


@pytest.fixture
def store(tmp_path: Path) -> ResultStore:
    return ResultStore(root=tmp_path)


@pytest.fixture
def file(make_record: MakeRecord, store: ResultStore) -> File:
    """File a run with its items."""

    def write(recipe: str, value: float, samples: Sequence[SampleScore], **facts: Any) -> None:
        record = make_record(recipe, value, **facts)
        assert record.task is not None
        path = store.path(record, task=record.task.name, model="m", recipe=recipe)
        name, digest = store.write_samples(path, samples)
        update = {"samples_file": name, "samples_sha256": digest}
        store.write(path, record.model_copy(update=update))

    return write


def answers(correct: np.ndarray) -> list[SampleScore]:
    return [
        SampleScore(id=f"q{i}", cluster="s", scores={"correct": float(v)})
        for i, v in enumerate(correct)
    ]


def windows(nll: np.ndarray, size: int = 70) -> list[SampleScore]:
    """Cut tokens of documents of `LENGTHS` into windows."""
    documents = np.repeat(np.arange(len(LENGTHS)), LENGTHS)
    return [
        SampleScore(
            id=str(start),
            cluster="",
            scores={"nll": float(part.sum()), "num_tokens": len(part)},
            token_nll=tuple(part.tolist()),
            token_document=tuple(documents[start : start + size].tolist()),
        )
        for start in range(0, len(nll), size)
        for part in [nll[start : start + size]]
    ]


def rows_of(section: Section | None, key: str = "recipe") -> dict[str, dict[str, str]]:
    assert section is not None
    assert section.table is not None
    found: dict[str, dict[str, str]] = section.table.set_index(key).to_dict("index")
    return found


def answered_of(store: ResultStore) -> list[Answered]:
    stored, problems = store.load()
    assert not problems
    return answer(comparable(stored))


BEFORE = np.arange(1000) % 4 == 0


def flipped(to_wrong: int, to_right: int) -> np.ndarray:
    after = BEFORE.copy()
    after[np.flatnonzero(BEFORE)[:to_wrong]] = False
    after[np.flatnonzero(~BEFORE)[:to_right]] = True
    return after


@pytest.mark.parametrize(
    ("to_wrong", "to_right", "verdict"),
    [(14, 26, "cannot tell"), (2, 26, "better"), (26, 2, "worse"), (0, 0, "cannot tell")],
)
def test_accuracy_is_better_only_where_mcnemar_s_test_says_so(
    file: File, store: ResultStore, to_wrong: int, to_right: int, verdict: str
) -> None:
    after = flipped(to_wrong, to_right)
    file("none", 0.25, answers(BEFORE))
    file("fp8_row", float(after.mean()), answers(after))
    (answered,) = answered_of(store)
    row = rows_of(ranking(answered))["fp8_row"]
    table = [[0, to_wrong], [to_right, 0]]
    p = mcnemar(table, exact=True).pvalue if to_wrong + to_right else 1.0
    assert row["p"] == f"{p:.2g}"
    assert row["differs from baseline"] == verdict
    assert row["difference from baseline"] == f"{(to_right - to_wrong) / 10:+.2f} pp"
    low, high = (
        float(bound.removesuffix(" pp")) for bound in row["its 95 % interval"].split(" .. ")
    )
    assert low < (to_right - to_wrong) / 10 < high
    assert rows_of(ranking(answered))["baseline"]["differs from baseline"] == "-"


def shifted(seed: int, mean: float) -> np.ndarray:
    """Return differences of tokens that share a part by document."""
    rng = np.random.default_rng(seed)
    documents = np.repeat(rng.normal(mean, 0.01, len(LENGTHS)), LENGTHS)
    return documents + rng.normal(0, 0.02, sum(LENGTHS))


def bounds(values: np.ndarray) -> tuple[float, float]:
    """The interval that leaves out each document once, by a plain loop."""
    documents, num = np.repeat(np.arange(len(LENGTHS)), LENGTHS), len(LENGTHS)
    left_out = [values[documents != index].mean() for index in range(num)]
    error = math.sqrt((num - 1) / num * sum((each - values.mean()) ** 2 for each in left_out))
    freedom = sum(LENGTHS) ** 2 / sum(length**2 for length in LENGTHS) - 1
    low, high = scipy_stats.t.interval(0.95, freedom, loc=values.mean(), scale=error)
    return float(low), float(high)


NLL = np.random.default_rng(0).normal(3, 1, sum(LENGTHS))


def test_perplexity_is_compared_by_document_in_each_table(file: File, store: ResultStore) -> None:
    less, more = shifted(1, 0.002), shifted(2, 0.05)
    for name, extra, fmt in (
        ("none", 0 * NLL, None),
        ("int8_row", less, "int8_row"),
        ("fp8_row", more, "fp8_e4m3fn_row"),
    ):
        value = math.exp(float((NLL + extra).mean()))
        file(name, value, windows(NLL + extra), task="perplexity", fmt=fmt)
    (answered,) = answered_of(store)
    found = rows_of(ranking(answered))
    for name, extra, verdict in (("int8_row", less, "cannot tell"), ("fp8_row", more, "worse")):
        low, high = bounds(extra)
        shown = f"{100 * math.expm1(low):+.3f} % .. {100 * math.expm1(high):+.3f} %"
        assert found[name]["its 95 % interval"] == shown
        assert found[name]["differs from baseline"] == verdict
    row = rows_of(formats_by_granularity(answered), "granularity")["row"]
    low, high = bounds(less - more)
    shown = f"{100 * math.expm1(low):+.3f} % .. {100 * math.expm1(high):+.3f} %"
    assert row["its 95 % interval"] == shown
    assert row["INT8 is"] == "better"


def test_formats_that_differ_by_no_more_than_the_noise_floor_are_not_told_apart(
    file: File, store: ResultStore
) -> None:
    for name, fmt, extra in (("a", "int8_row", 0.0), ("b", "fp8_e4m3fn_row", 0.01)):
        tokens = NLL + extra * (1 + np.arange(len(NLL)) % 7)
        file(name, math.exp(tokens.mean()), windows(tokens), task="perplexity", fmt=fmt)

    def verdict() -> str:
        (found,) = (a for a in answered_of(store) if a.group.task.name == "perplexity")
        return rows_of(formats_by_granularity(found), "granularity")["row"]["INT8 is"]

    assert verdict() == "better"
    changes = {"batch/kl_mean": 0.05, "batch/ln_ppl_ratio": 0.05}
    metrics = tuple(builders.metric(name, value, n=len(NLL)) for name, value in changes.items())
    file("none", 0.0, windows(NLL), task="noise_floor", metrics=metrics)
    assert verdict() == "cannot tell"


def test_perplexity_a_word_takes_the_log_loss_of_its_tokens(file: File, store: ResultStore) -> None:
    extra = shifted(1, 0.01)
    nll = Metric(
        name="nll", value=3.0, unit=Unit.NAT_PER_TOKEN, n=3000, n_of="token", higher_is_better=False
    )
    for name, more in (("none", 0 * NLL), ("int8_row", extra)):
        file(name, 20.0, windows(NLL + more), task="perplexity", extra=(nll,))
    (answered,) = answered_of(store)
    # The headline is over 1,000 of what these 3,000 tokens make.
    low, high = bounds(3 * extra)
    shown = f"{100 * math.expm1(low):+.3f} % .. {100 * math.expm1(high):+.3f} %"
    assert rows_of(ranking(answered))["int8_row"]["its 95 % interval"] == shown


def test_generate_and_direct_are_paired(file: File, store: ResultStore, parse_rate: Metric) -> None:
    after = flipped(5, 30)
    file("none", 0.25, answers(BEFORE))
    file("none", float(after.mean()), answers(after), task="mmlu_generate", extra=(parse_rate,))
    (section,) = direct_against_generate([each.group for each in answered_of(store)])
    row = rows_of(section)["baseline"]
    assert (row["generate - direct"], row["generate is"]) == ("+2.50 pp", "better")
    assert row["p"] == f"{mcnemar([[0, 5], [30, 0]], exact=True).pvalue:.2g}"


def test_cloze_runs_are_paired_and_are_neither_direct_nor_generate(
    file: File, store: ResultStore
) -> None:
    after = flipped(30, 5)
    for task in ("mmlu", "mmlu_cloze"):
        file("none", 0.25, answers(BEFORE), task=task)
        file("int8_row", float(after.mean()), answers(after), task=task)
    found = answered_of(store)
    assert direct_against_generate([each.group for each in found]) == []
    [section] = [ranking(each) for each in found if each.group.task.name == "mmlu_cloze"]
    row = rows_of(section)["int8_row"]
    assert (row["difference from baseline"], row["differs from baseline"]) == ("-2.50 pp", "worse")
    assert row["p"] == f"{mcnemar([[0, 30], [5, 0]], exact=True).pvalue:.2g}"
    assert "Guessing among four choices gives 25 %." in section.text


def test_generate_and_direct_without_items_say_why_there_is_no_interval(
    make_record: MakeRecord, store: ResultStore
) -> None:
    for task in ("mmlu", "mmlu_generate"):
        record = make_record("none", 0.25, task=task)
        store.write(store.path(record, task=task, model="m", recipe="none"), record)
    (section,) = direct_against_generate([each.group for each in answered_of(store)])
    assert rows_of(section)["baseline"]["its 95 % interval"] == "-"
    assert section.text.endswith("\nno interval: these runs have no samples to pair")


def test_record_with_an_interval_over_windows_shows_none_and_says_how_to_get_one(
    make_record: MakeRecord, store: ResultStore
) -> None:
    old = make_record("none", 20.0, "perplexity")
    old = old.model_copy(
        update={"metrics": tuple(m.model_copy(update={"note": None}) for m in old.metrics)}
    )
    store.write(store.path(old, task="perplexity", model="m", recipe="none"), old)
    (answered,) = answered_of(store)
    section = ranking(answered)
    assert rows_of(section)["baseline"]["95 % interval"] == "-"
    assert "takes windows for independent" in section.text
    assert "scripts/add_documents.py" in section.text
    # The record itself is as it was.
    assert answered.group.rows[0].stored.path.read_bytes() == store.load()[0][0].path.read_bytes()
    assert store.load()[0][0].record.metrics[0].ci95 is not None


@pytest.mark.parametrize("task", ["divergence", "noise_floor", "parity"])
def test_what_no_script_can_mend_is_to_be_repeated(make_record: MakeRecord, task: str) -> None:
    old = Metric(
        name="kl_mean",
        value=0.1,
        unit=Unit.NAT_PER_TOKEN,
        n=1000,
        n_of="token",
        ci95=(0.05, 0.15),
        higher_is_better=False,
    )
    (found,) = without_narrow_intervals(make_record("int8_row", task=task, metrics=(old,))).metrics
    assert found.ci95 is None
    assert str(found.note).endswith("which is too narrow; repeat the run")


def test_intervals_of_questions_stay_in_old_records(
    make_record: MakeRecord, store: ResultStore
) -> None:
    record = make_record("int8_row", 0.3, "divergence")
    store.write(store.path(record, task="divergence", model="m", recipe="r"), record)
    (answered,) = answered_of(store)
    assert answered.group.rows[0].headline.ci95 == record.metrics[0].ci95


@pytest.mark.parametrize("damage", ["lost", "altered", "without"])
def test_lost_items_leave_the_value_and_a_line_that_says_why_there_is_no_interval(
    file: File, store: ResultStore, make_record: MakeRecord, damage: str
) -> None:
    file("none", 0.25, answers(BEFORE))
    if damage == "without":
        record = make_record("int8_row", 0.26)
        store.write(store.path(record, task="mmlu", model="m", recipe="int8_row"), record)
    else:
        file("int8_row", 0.26, answers(flipped(0, 10)))
        (items,) = store.root.glob("mmlu/m/int8_row*.parquet")
        items.unlink() if damage == "lost" else items.write_bytes(b"x")
    (answered,) = answered_of(store)
    section = ranking(answered)
    row = rows_of(section)["int8_row"]
    assert row["difference from baseline"] == "+1.00 pp"
    assert (row["p"], row["its 95 % interval"], row["differs from baseline"]) == ("-", "-", "-")
    reason = "no samples to pair" if damage == "without" else "repeat the run"
    assert "Difference: no interval: " in section.text
    assert reason in section.text


def test_baseline_that_answers_nothing_rightly_does_not_cost_the_table(
    file: File, store: ResultStore
) -> None:
    nothing, some = np.zeros(40, dtype=bool), np.arange(40) < 8
    file("none", 0.0, answers(nothing))
    file("int8_row", 0.2, answers(some))
    (answered,) = answered_of(store)
    row = rows_of(ranking(answered))["int8_row"]
    assert row["difference from baseline"] == "+20.00 pp"
    assert row["differs from baseline"] == "better"
