from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.claims.claim import answer
from harness.claims.grouping import Group, comparable, finished
from harness.report.sections.ranking import ranking
from harness.results.names import TIMED
from harness.results.record import RunRecord, Status
from harness.results.store import ResultStore


def groups_of(root: Path) -> list[Group]:
    return comparable(ResultStore(root=root).load()[0])


@pytest.mark.parametrize(
    "other",
    [
        {"data": "data-2"},
        {"fingerprint": "g"},
        {"model": "n", "fingerprint": "g"},
        {"task": "perplexity"},
        {"seed": 43},
    ],
)
def test_runs_that_differ_in_more_than_the_recipe_are_never_in_one_group(
    make_record: Callable[..., RunRecord],
    file_records: Callable[..., Path],
    other: dict[str, object],
) -> None:
    root = file_records(make_record("none"), make_record("int8_row", **other))
    groups = groups_of(root)
    assert len(groups) == 2
    assert sorted(group.baseline is None for group in groups) == [False, True]


def test_rows_are_sorted_best_first_in_the_direction_of_the_metric(
    make_record: Callable[..., RunRecord], file_records: Callable[..., Path]
) -> None:
    accuracy = [make_record("none", 0.5), make_record("a_row", 0.6), make_record("b_row", 0.4)]
    ppl = [make_record(r, v, task="perplexity") for r, v in (("none", 9.0), ("a_row", 8.0))]
    first, second = groups_of(file_records(*accuracy, *ppl))
    assert [row.value for row in first.rows] == [0.6, 0.5, 0.4]
    assert [row.value for row in second.rows] == [8.0, 9.0]


@pytest.mark.parametrize("best_first", [True, False])
def test_the_baseline_is_never_chosen_by_its_value(
    make_record: Callable[..., RunRecord], file_records: Callable[..., Path], best_first: bool
) -> None:
    values = (0.6, 0.5) if best_first else (0.5, 0.6)
    records = [make_record("none", v, config_hash=h) for v, h in zip(values, "ab", strict=True)]
    (group,) = groups_of(file_records(*records, make_record("int8_row", 0.55)))
    assert group.baseline is not None
    assert group.baseline.value == values[1]  # the latest
    section = ranking(answer([group])[0])
    assert section.table is not None
    differences = section.table.set_index("accuracy")["difference from baseline"]
    assert differences["60.00 %" if best_first else "50.00 %"].startswith("not compared")


@pytest.mark.parametrize("is_first", [True, False])
def test_the_baseline_has_the_engine_of_the_recipes(
    make_record: Callable[..., RunRecord], file_records: Callable[..., Path], is_first: bool
) -> None:
    def of_engine(recipe: str, value: float, batch_tokens: int) -> RunRecord:
        record = make_record(recipe, value)
        engine = {"_target_": "Local", "batch_tokens": batch_tokens}
        return record.model_copy(update={"config": record.config | {"engine": engine}})

    sizes = (512, 4096) if is_first else (4096, 512)
    records = [of_engine("none", 0.5 + size / 1e5, size) for size in sizes]
    (group,) = groups_of(file_records(*records, of_engine("int8_row", 0.48, 512)))
    assert group.baseline is not None
    assert group.baseline.value == 0.5 + 512 / 1e5


def test_of_repeated_runs_only_the_latest_counts(
    make_record: Callable[..., RunRecord], file_records: Callable[..., Path]
) -> None:
    old, new = make_record("none", 0.1, config_hash="h"), make_record("none", 0.2, config_hash="h")
    (group,) = groups_of(file_records(new, old))
    assert [row.value for row in group.rows] == [0.2]


@pytest.mark.parametrize("now", [{"data": "data-2"}, {"fingerprint": "g"}])
def test_run_on_what_a_path_held_before_still_counts(
    make_record: Callable[..., RunRecord],
    file_records: Callable[..., Path],
    now: dict[str, object],
) -> None:
    runs = [make_record("none", 0.1, config_hash="h"), make_record("int8_row", 0.2)]
    later = make_record("none", 0.3, config_hash="h", **now)
    groups = groups_of(file_records(*runs, later))
    found = [(group.baseline and group.baseline.value, len(group.rows)) for group in groups]
    assert sorted(found) == [(0.1, 2), (0.3, 1)]


MACHINES: list[dict[str, Any]] = [
    {},
    {"cpu": "another processor"},
    {"threads": 2},
    {"gpu": "a GPU", "device": "cuda"},
]


@pytest.mark.parametrize("task", TIMED)
def test_of_repeated_timed_runs_the_latest_of_each_machine_counts(
    make_record: Callable[..., RunRecord], file_records: Callable[..., Path], task: str
) -> None:
    runs = [
        make_record("none", value, task=task, config_hash="h", **machine)
        for value in (0.1, 0.2)
        for machine in MACHINES
    ]
    stored = ResultStore(root=file_records(*runs)).load()[0]
    assert [item.record.run_id for item in finished(stored)] == [run.run_id for run in runs[4:]]


def test_of_repeated_runs_of_a_quality_the_latest_of_all_machines_counts(
    make_record: Callable[..., RunRecord], file_records: Callable[..., Path]
) -> None:
    # A GPU is another kind of device, so its runs are runs of their own.
    on_cpus = [machine for machine in MACHINES if "gpu" not in machine]
    runs = [make_record("none", config_hash="h", **machine) for machine in on_cpus]
    stored = ResultStore(root=file_records(*runs)).load()[0]
    assert [item.record.run_id for item in finished(stored)] == [runs[-1].run_id]


def test_runs_that_did_not_end_well_are_left_out(
    make_record: Callable[..., RunRecord], file_records: Callable[..., Path]
) -> None:
    bad = [s for s in Status if s is not Status.OK]
    assert groups_of(file_records(*(make_record("none", status=status) for status in bad))) == []


def test_format_names_split_into_element_and_granularity(
    make_record: Callable[..., RunRecord], file_records: Callable[..., Path]
) -> None:
    (group,) = groups_of(file_records(make_record("fp8_g64", fmt="fp8_e4m3fn_g64")))
    row = group.find("fp8_e4m3fn", "g64")
    assert row is not None
    assert group.find("int8", "g64") is None


def test_rounded_inputs_make_another_format_of_it(
    make_record: Callable[..., RunRecord], file_records: Callable[..., Path]
) -> None:
    record = make_record("w8a8", fmt="int8_row")
    assert record.quant is not None
    quant = record.quant.model_copy(update={"input_formats": {"linear": "int8_row"}})
    (group,) = groups_of(file_records(record.model_copy(update={"quant": quant})))
    assert group.find("int8", "row") is None


def test_format_is_shown_by_its_fake_quantized_row_where_there_is_one(
    make_record: Callable[..., RunRecord], file_records: Callable[..., Path]
) -> None:
    real = make_record("int8_row_real", 0.9, fmt="int8_row", backend="scaled_mm")
    (group,) = groups_of(file_records(real))
    row = group.find("int8", "row")
    assert row is not None
    assert row.label == "int8_row_real"
    (group,) = groups_of(file_records(real, make_record("int8_row", 0.5)))
    row = group.find("int8", "row")
    assert row is not None
    assert row.label == "int8_row"


def test_random_weights_are_a_model_of_their_own(
    make_record: Callable[..., RunRecord], file_records: Callable[..., Path]
) -> None:
    root = file_records(make_record("none"), make_record("int8_row", weights="random"))
    assert len(groups_of(root)) == 2


def test_runs_without_a_value_make_no_group(
    make_record: Callable[..., RunRecord], file_records: Callable[..., Path]
) -> None:
    record = make_record("none")
    nothing = record.metrics[0].model_copy(update={"value": None, "ci95": None, "note": "why not"})
    assert groups_of(file_records(record.model_copy(update={"metrics": (nothing,)}))) == []
