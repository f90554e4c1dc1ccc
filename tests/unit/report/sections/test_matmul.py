"""The tables of matmuls: every cell is the metric it stands for."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from harness.report.__main__ import write
from harness.report.sections.matmul import MEASURES, matmul_errors
from harness.results.record import Metric, RunRecord, Status, TaskInfo, Unit
from harness.results.store import ResultStore

MakeRecord = Callable[..., RunRecord]
INPUTS, SHAPES, FORMATS = ("normal", "outlier_channels"), ("2x4", "8x16"), ("int8", "fp8")


def metric(name: str, value: float | None, interval: bool = True) -> Metric:
    return Metric(
        name=name,
        value=value,
        unit=Unit.ONE,
        n=10,
        n_of="draw",
        ci95=(value * 0.9, value * 1.1) if value and interval else None,
        higher_is_better=False,
        note=None if value and interval else "why not",
    )


@pytest.fixture
def record(make_record: MakeRecord) -> RunRecord:
    """A record in which every value is different: 0.01, 0.02, and so on, ratios from 2 on."""
    names = [
        f"{measure}/{kind}/{shape}/{name}"
        for measure in MEASURES
        for shape in SHAPES
        for kind in INPUTS
        for name in FORMATS
    ]
    ratios = [
        f"ratio/{m}/{kind}/{shape}/fp8/int8"
        for m in MEASURES
        for shape in SHAPES
        for kind in INPUTS
    ]
    found = [metric(name, 0.01 * (i + 1)) for i, name in enumerate(names)]
    found += [metric(name, 2.0 + i) for i, name in enumerate(ratios)]
    return without_model(make_record(), found)


def without_model(record: RunRecord, metrics: Sequence[Metric]) -> RunRecord:
    info = TaskInfo(
        name="matmul",
        version=1,
        protocol="Y=X W^T",
        data={
            "name": "random matrices",
            "inputs": list(INPUTS),
            "shapes": list(SHAPES),
            "formats": {name: name for name in FORMATS},
            "ratios": [["fp8", "int8"]],
        },
        needs_model=False,
    )
    changes = {"model": None, "quant": None, "task": info, "metrics": tuple(metrics)}
    return RunRecord.model_validate(record.model_copy(update=changes).model_dump())


def test_rows_are_sizes_and_inputs_and_columns_formats_and_ratios(
    record: RunRecord, file_records: Callable[..., Path]
) -> None:
    stored, _ = ResultStore(root=file_records(record)).load()
    sections = matmul_errors(stored)
    assert len(sections) == len(MEASURES) == len({section.title for section in sections})
    assert sections[0].table is not None
    assert list(sections[0].table.columns) == ["M x K", "inputs", "int8", "fp8", "fp8 / int8"]
    assert [list(row) for row in sections[0].table.to_numpy()] == [
        ["2x4", "normal", "0.01 [0.009, 0.011]", "0.02 [0.018, 0.022]", "2 [1.8, 2.2]"],
        ["2x4", "outlier channels", "0.03 [0.027, 0.033]", "0.04 [0.036, 0.044]", "3 [2.7, 3.3]"],
        ["8x16", "normal", "0.05 [0.045, 0.055]", "0.06 [0.054, 0.066]", "4 [3.6, 4.4]"],
        ["8x16", "outlier channels", "0.07 [0.063, 0.077]", "0.08 [0.072, 0.088]", "5 [4.5, 5.5]"],
    ]
    assert sections[-1].table is not None
    assert sections[-1].table.to_numpy()[0][2] == "0.25 [0.225, 0.275]"
    assert "n = 10 draws" in sections[0].text
    assert all("The same draws" in section.text for section in sections[1:])
    assert "Protocol: Y=X W^T" in sections[0].text
    assert stored[0].path.name in sections[0].text


def test_missing_values_are_dashes_and_missing_intervals_are_left_out(
    make_record: MakeRecord, file_records: Callable[..., Path]
) -> None:
    found = [
        metric("rel_error/both/normal/2x4/int8", 0.0123456, interval=False),
        metric("ratio/rel_error/both/normal/2x4/fp8/int8", None),
    ]
    root = file_records(without_model(make_record(), found))
    table = matmul_errors(ResultStore(root=root).load()[0])[0].table
    assert table is not None
    assert list(table.to_numpy()[0]) == ["2x4", "normal", "0.01235", "-", "-"]


def test_report_of_such_runs_alone_is_written(
    record: RunRecord, file_records: Callable[..., Path], tmp_path: Path
) -> None:
    text = write(file_records(record), tmp_path / "reports", "study").read_text(encoding="utf-8")
    assert text.count("## Matmul error") == len(MEASURES)
    assert text.count("Protocol: ") == 1, "one run has one protocol, however many tables"
    assert text.split("## Records")[1].split("\n## ")[0].count("| matmul") == 1


def test_such_runs_stand_beside_those_of_models_and_never_in_their_tables(
    record: RunRecord,
    make_record: MakeRecord,
    file_records: Callable[..., Path],
    tmp_path: Path,
) -> None:
    root = file_records(record, make_record("none", 0.5))
    text = write(root, tmp_path / "reports", "study").read_text(encoding="utf-8")
    assert text.count("## Matmul error") == len(MEASURES)
    assert text.count("## Ranking against the baseline: mmlu of m") == 1
    assert "## matmul of" not in text


def test_runs_that_failed_have_no_table(
    record: RunRecord, file_records: Callable[..., Path]
) -> None:
    failed = record.model_copy(update={"status": Status.ERROR, "error": "gone"})
    assert matmul_errors(ResultStore(root=file_records(failed)).load()[0]) == []
