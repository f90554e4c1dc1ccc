"""Divergence tables, changed answers, and the noise floor beside every difference."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.claims.claim import Claim, answer
from harness.claims.grouping import Group, comparable
from harness.claims.measure import LOG_LOSS
from harness.claims.noise_floor import Floor, floor_of
from harness.claims.verdict import Evidence
from harness.report.__main__ import write
from harness.report.sections.answers import answer_changes
from harness.report.sections.divergence import divergences
from harness.report.sections.noise import noise_floor
from harness.report.sections.quality import verdict_in_words
from harness.results.record import BaselineInfo, Metric, RunRecord, Unit
from harness.results.store import ResultStore
from harness.stats import Estimate
from harness.stats.difference import Difference

MakeRecord = Callable[..., RunRecord]
FileRecords = Callable[..., Path]


def metric(name: str, value: float, unit: Unit = Unit.NAT_PER_TOKEN, **fields: Any) -> Metric:
    note = fields.pop("note", "no interval here")
    return Metric(
        name=name,
        value=value,
        unit=unit,
        n=900,
        n_of="token",
        higher_is_better=None,
        note=note,
        **fields,
    )


def floor_record(make_record: MakeRecord, **fields: Any) -> RunRecord:
    record = make_record(task="noise_floor", **fields)
    found = (
        metric("batch/kl_mean", 1e-11, note="batch 2"),
        metric("batch/ln_ppl_ratio", -2e-6, note="batch 2"),
        metric("attention/kl_mean", 3e-11, note="attention eager"),
        metric("attention/ln_ppl_ratio", 4e-6, note="attention eager"),
        metric("dtype/kl_mean", 5e-3, note="dtype bfloat16"),
        metric("dtype/ln_ppl_ratio", 6e-3, note="dtype bfloat16"),
    )
    return record.model_copy(update={"metrics": found})


BY_DOCUMENT = "interval by document, 17 of them"


def divergence_record(
    make_record: MakeRecord, recipe: str, kl: float, **answers: float
) -> RunRecord:
    record = make_record(recipe, task="divergence")
    found = [
        metric("kl_mean", kl, ci95=(kl * 0.9, kl * 1.1), note=BY_DOCUMENT),
        metric("kl_p99", kl * 9),
        metric("ln_ppl_ratio", kl / 2, ci95=(kl / 3, kl), note=BY_DOCUMENT),
        metric("same_top", 0.9, Unit.FRACTION),
        *(metric(name, value, Unit.ONE) for name, value in answers.items()),
    ]
    return record.model_copy(update={"metrics": tuple(found)})


def groups_of(root: Path) -> list[Group]:
    stored, problems = ResultStore(root=root).load()
    assert not problems
    return comparable(stored)


def test_divergences_are_listed_from_the_smallest_with_their_intervals(
    make_record: MakeRecord, file_records: FileRecords
) -> None:
    root = file_records(
        divergence_record(make_record, "int4", 0.25), divergence_record(make_record, "int8", 0.0125)
    )
    (group,) = groups_of(root)
    section = divergences(answer([group])[0])
    assert section is not None
    assert section.table is not None
    assert list(section.table["recipe"]) == ["int8", "int4"]
    assert list(section.table["KL mean [nat/token]"]) == ["0.0125", "0.25"]
    assert BY_DOCUMENT in section.text
    assert section.table["95 % interval"][1] == "0.225 .. 0.275"
    assert section.table["same top token"][0] == "90.00 %"
    assert section.table["max"][0] == "-"
    assert answer_changes(answer([group])[0]) is None


@pytest.mark.parametrize(
    ("to_wrong", "to_right", "p", "floor", "verdict"),
    [
        (30, 5, 1e-4, None, "worse"),
        (5, 30, 1e-4, None, "better"),
        (12, 5, 0.14, None, "cannot tell"),
        (30, 5, 1e-4, 24 / 900, "worse"),
        (30, 5, 1e-4, 26 / 900, "cannot tell"),
    ],
)
def test_changed_answers_have_a_verdict_of_their_test(
    make_record: MakeRecord,
    file_records: FileRecords,
    to_wrong: int,
    to_right: int,
    p: float,
    floor: float | None,
    verdict: str,
) -> None:
    answers = {"flips_to_wrong": to_wrong, "flips_to_right": to_right, "flips": 0.1, "flips_p": p}
    records = [divergence_record(make_record, "int4", 0.2, **answers)]
    if floor is not None:
        measured = floor_record(make_record)
        flips = metric("batch/flips", floor, Unit.FRACTION)
        records.append(measured.model_copy(update={"metrics": (*measured.metrics, flips)}))
    [answered] = [
        each
        for each in answer(groups_of(file_records(*records)))
        if each.group.task.name == "divergence"
    ]
    section = answer_changes(answered)
    assert section is not None
    assert section.table is not None
    assert section.table["differs from baseline"][0] == verdict
    assert section.table["right to wrong"][0] == str(to_wrong)


def test_noise_floor_is_that_of_the_same_model_on_the_same_kind_of_device(
    make_record: MakeRecord, file_records: FileRecords
) -> None:
    root = file_records(
        make_record("int8", task="perplexity"),
        floor_record(make_record),
        floor_record(make_record, fingerprint="another"),
    )
    groups = groups_of(root)
    mine = next(group for group in groups if group.task.name == "perplexity")
    floor = floor_of(mine, groups)
    assert floor is not None
    assert floor.row.model.fingerprint == mine.model.fingerprint
    assert floor.least == 4e-6, "the type is a change of arithmetic, not of order"
    alone = [group for group in groups if group.task.name == "perplexity"]
    assert floor_of(mine, alone) is None


def test_report_prints_the_floor_beside_differences(
    make_record: MakeRecord, file_records: FileRecords, tmp_path: Path
) -> None:
    root = file_records(
        make_record("none", 20.0, "perplexity"),
        make_record("int8", 20.1, "perplexity"),
        floor_record(make_record),
    )
    text = write(root, tmp_path, "r").read_text()
    line = "Noise floor, the unquantized model against itself on 900 tokens: batch: KL 1.0e-11"
    _, _, ranking = text.partition("## Ranking against the baseline: perplexity of")
    assert line in ranking.partition("##")[0]
    _, _, table = text.partition("## Noise floor")
    assert "6.00e-03" in table.partition("##")[0]


def test_noise_floor_has_a_row_for_each_change(
    make_record: MakeRecord, file_records: FileRecords
) -> None:
    (group,) = groups_of(file_records(floor_record(make_record)))
    section = noise_floor(group)
    assert section is not None
    assert section.table is not None
    assert list(section.table["change"]) == ["batch 2", "attention eager", "dtype bfloat16"]
    assert "The last column belongs to the ln PPL ratio: no interval. The other" in section.text


@pytest.mark.parametrize("how", [BY_DOCUMENT, "no interval from fewer than 10 windows"])
def test_noise_floor_says_how_its_intervals_were_made_or_why_it_has_none(
    make_record: MakeRecord, file_records: FileRecords, how: str
) -> None:
    record = floor_record(make_record)
    noted = [m.model_copy(update={"note": f"{m.note}; {how}"}) for m in record.metrics]
    (group,) = groups_of(file_records(record.model_copy(update={"metrics": tuple(noted)})))
    section = noise_floor(group)
    assert section is not None
    assert f"ln PPL ratio: {how}. The other figures" in section.text


@pytest.mark.parametrize(
    ("nll", "expected"),
    [(3e-6, "cannot tell (within the noise floor)"), (5e-6, "worse"), (-5e-6, "better")],
)
def test_difference_within_the_floor_has_no_verdict(
    make_record: MakeRecord, file_records: FileRecords, nll: float, expected: str
) -> None:
    (group,) = groups_of(file_records(floor_record(make_record)))
    (row,) = group.rows
    estimate = Estimate(nll, abs(nll) / 20)
    difference = Difference(value=nll, estimates=(estimate,), num_items=9, test="t")

    def words(floor: float | None) -> str:
        evidence = Evidence(measure=LOG_LOSS, difference=difference, p=estimate.p, floor=floor)
        claim = Claim(row=row, reference=row, evidence=evidence, num_tests=1, q=estimate.p)
        return verdict_in_words(claim)

    assert words(Floor(row).least) == expected
    assert words(None) in ("worse", "better")


def of_checkpoint(record: RunRecord, name: str, baseline: str | None = "f") -> RunRecord:
    """Return the record of a quantized checkpoint, compared with a baseline if there is one."""
    assert record.model is not None
    assert record.quant is not None
    own = {"name": name, "fingerprint": name, "baseline": baseline}
    quant = record.quant.model_copy(
        update={
            "name": "none",
            "kind": "fake-quant",
            "formats": {"checkpoint": "int4 weights in groups of 64"},
        }
    )
    base = baseline and BaselineInfo(
        relation="second model",
        name="m",
        fingerprint=baseline,
        revision=None,
        origin="float checkpoint",
        dtype="float32",
    )
    model = record.model.model_copy(update=own)
    return record.model_copy(update={"model": model, "quant": quant, "baseline": base})


def test_checkpoint_stands_beside_the_recipe_of_its_float_model(
    make_record: MakeRecord, file_records: FileRecords
) -> None:
    root = file_records(
        divergence_record(make_record, "int4", 0.25),
        of_checkpoint(divergence_record(make_record, "x", 0.5), "gptq"),
    )
    (group,) = groups_of(root)
    section = divergences(answer([group])[0])
    assert section is not None
    assert section.table is not None
    assert list(section.table["recipe"]) == ["int4", "gptq"]
    assert section.title == "Divergence from the baseline: m"
    assert "Baseline: m, float checkpoint, float32" in section.text


def test_baseline_of_another_type_is_another_comparison(
    make_record: MakeRecord, file_records: FileRecords
) -> None:
    other = of_checkpoint(divergence_record(make_record, "x", 0.5), "gptq")
    assert other.baseline is not None
    coarse = other.baseline.model_copy(update={"dtype": "bfloat16"})
    root = file_records(
        divergence_record(make_record, "int4", 0.25),
        other.model_copy(update={"baseline": coarse}),
    )
    assert [len(group.rows) for group in groups_of(root)] == [1, 1]


@pytest.mark.parametrize("baseline", [None, "f"])
def test_old_comparison_of_a_checkpoint_with_itself_is_left_out_with_a_reason(
    make_record: MakeRecord, file_records: FileRecords, tmp_path: Path, baseline: str | None
) -> None:
    old = of_checkpoint(divergence_record(make_record, "x", 0.0), "gptq", baseline)
    floor = of_checkpoint(floor_record(make_record), "gptq", baseline)
    root = file_records(
        divergence_record(make_record, "int4", 0.25),
        old.model_copy(update={"baseline": None}),
        floor.model_copy(update={"baseline": None}),
    )
    (group,) = groups_of(root)
    assert [row.label for row in group.rows] == ["int4"]
    text = write(root, tmp_path, "r").read_text()
    _, _, left_out = text.partition("## Left out: records that are known to be wrong")
    assert "+model@model.baseline=" in left_out
    assert old.run_id in left_out
    assert floor.run_id in left_out
    _, _, table = text.partition("## Divergence")
    assert "gptq" not in table.partition("##")[0]


def test_baseline_is_no_recipe_with_a_divergence_of_nothing(
    make_record: MakeRecord, file_records: FileRecords
) -> None:
    itself = divergence_record(make_record, "none", 0.0)
    (group,) = groups_of(file_records(itself, divergence_record(make_record, "int4", 0.25)))
    section = divergences(answer([group])[0])
    assert section is not None
    assert section.table is not None
    assert list(section.table["recipe"]) == ["int4"]
    (alone,) = groups_of(file_records(itself.model_copy(update={"run_id": "alone"}), task="u"))[:1]
    section = divergences(answer([Group(rows=tuple(r for r in alone.rows if r.is_baseline))])[0])
    assert section is not None
    assert section.table is None
    assert "No recipe was measured" in section.text


def test_dequantized_file_is_not_the_baseline_of_its_float_model(
    make_record: MakeRecord, file_records: FileRecords
) -> None:
    """A GGUF file has float weights in memory, and says what it was made of."""
    gguf = make_record("none", 19.0, "perplexity", model="q4_k_m", fingerprint="g")
    assert gguf.model is not None
    made_of = gguf.model.model_copy(update={"baseline": "f"})
    root = file_records(
        make_record("none", 20.0, "perplexity"), gguf.model_copy(update={"model": made_of})
    )
    (group,) = groups_of(root)
    assert {row.label for row in group.rows} == {"baseline", "q4_k_m"}
    assert group.baseline is not None
    assert group.baseline.value == 20.0


def test_noise_floor_of_a_checkpoint_is_found_beside_its_float_model(
    make_record: MakeRecord, file_records: FileRecords
) -> None:
    root = file_records(
        divergence_record(make_record, "int4", 0.25),
        of_checkpoint(floor_record(make_record), "gptq"),
    )
    groups = groups_of(root)
    mine = next(group for group in groups if group.task.name == "divergence")
    floor = floor_of(mine, groups)
    assert floor is not None
    section = noise_floor(next(group for group in groups if group.task.name == "noise_floor"))
    assert section is not None
    assert section.title == "Noise floor: m, float32"
