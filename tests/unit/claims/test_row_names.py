"""Names of rows: one name, one recipe; words tell apart what shares a name, not hashes."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.claims import answer
from harness.claims.grouping import comparable
from harness.report.accuracy import accuracy_of
from harness.report.sections.calibration import calibrations
from harness.report.sections.unfinished import not_supported
from harness.results.record import CalibrationInfo, RunRecord, Status
from harness.results.store import ResultStore

MakeRecord = Callable[..., RunRecord]
FileRecords = Callable[..., Path]
HASH = re.compile(r"\([0-9a-f]{6}\)")


def labels(root: Path) -> list[list[str]]:
    groups = comparable(ResultStore(root=root).load()[0])
    found = [[row.label for row in group.rows] for group in groups]
    assert not any(HASH.search(label) for each in found for label in each)
    return found


def configured(record: RunRecord, **parts: Any) -> RunRecord:
    """Return a record whose configuration has other parts."""
    config = {key: {**record.config.get(key, {}), **value} for key, value in parts.items()}
    return record.model_copy(update={"config": record.config | config})


def calibrated(record: RunRecord, text: str | None, sha256: str = "ab" * 32) -> RunRecord:
    """Return a record of static scales that were fitted to a text."""
    assert record.quant is not None
    info = text and CalibrationInfo(text=text, sha256=sha256, num_sequences=4, length=8, seed=1)
    quant = record.quant.model_copy(update={"calibration": info or None})
    rules = {"linear": {"static_input": True}}
    return configured(record.model_copy(update={"quant": quant}), quant={"rules": rules})


def test_a_recipe_alone_has_its_name_and_the_unquantized_model_is_the_baseline(
    make_record: MakeRecord, file_records: FileRecords
) -> None:
    root = file_records(make_record("none", 0.7), make_record("int8_row", 0.6))
    assert labels(root) == [["baseline", "int8_row"]]


def test_two_baselines_are_told_apart_by_what_was_asked_for(
    make_record: MakeRecord, file_records: FileRecords
) -> None:
    first = configured(make_record("none", 0.7, config_hash="-"), model={"revision": "main"})
    second = configured(make_record("none", 0.6, config_hash="-"), model={"revision": "v2"})
    root = file_records(first, second)
    assert labels(root) == [["baseline (model.revision=main)", "baseline (model.revision=v2)"]]


def test_two_recipes_of_one_name_are_told_apart_by_their_formats(
    make_record: MakeRecord, file_records: FileRecords
) -> None:
    root = file_records(
        make_record("mine", 0.7, fmt="int8_row"), make_record("mine", 0.6, fmt="int2_g64")
    )
    assert labels(root) == [["mine (weights int8_row)", "mine (weights int2_g64)"]]


def test_two_recipes_of_one_name_and_format_are_told_apart_by_their_configuration(
    make_record: MakeRecord, file_records: FileRecords
) -> None:
    first = configured(make_record("mine", 0.7), quant={"skip": ["lm_head"], "group_size": 64})
    second = configured(make_record("mine", 0.6), quant={"skip": [], "group_size": 64})
    assert labels(file_records(first, second)) == [["mine (skip=[lm_head])", "mine (skip=[])"]]


def test_a_key_that_came_later_makes_no_other_recipe(
    make_record: MakeRecord, file_records: FileRecords
) -> None:
    older = make_record("int8_row", 0.7, task="mmlu")
    newer = configured(make_record("int8_row", 0.6, task="mmlu_generate"), quant={"later": None})
    assert labels(file_records(older, newer)) == [["int8_row"], ["int8_row"]]


def test_runs_of_one_configuration_and_another_text_are_two_recipes(
    make_record: MakeRecord, file_records: FileRecords
) -> None:
    shared = {"config_hash": "same"}
    root = file_records(
        calibrated(make_record("static", 0.7, **shared), "train"),
        calibrated(make_record("static", 0.6, **shared), "questions"),
        calibrated(make_record("static", 0.5, **shared), "train"),
    )
    # The later run on the same text takes the place of the first.
    assert labels(root) == [["static (calibrated on questions)", "static (calibrated on train)"]]


def test_texts_of_one_name_are_told_apart_by_their_content(
    make_record: MakeRecord, file_records: FileRecords
) -> None:
    root = file_records(
        calibrated(make_record("static", 0.7), "a.txt", "1" * 64),
        calibrated(make_record("static", 0.6), "a.txt", "2" * 64),
    )
    assert labels(root) == [["static (SHA-256 111111111111)", "static (SHA-256 222222222222)"]]


def test_a_name_means_one_recipe_in_all_tables(
    make_record: MakeRecord, file_records: FileRecords
) -> None:
    direct = calibrated(make_record("static", 0.7, task="mmlu"), "train")
    generate = calibrated(make_record("static", 0.6, task="mmlu_generate"), "questions")
    assert labels(file_records(direct, generate)) == [
        ["static (calibrated on train)"],
        ["static (calibrated on questions)"],
    ]


def test_a_record_without_its_text_gives_way_to_one_of_the_same_command(
    make_record: MakeRecord, file_records: FileRecords
) -> None:
    older = calibrated(make_record("static", 0.7, config_hash="same"), None)
    newer = calibrated(make_record("static", 0.6, config_hash="same"), "train")
    (group,) = comparable(ResultStore(root=file_records(newer, older)).load()[0])
    assert [(row.label, row.value) for row in group.rows] == [("static", 0.6)]


def test_an_unknown_text_is_said_beside_a_known_one(
    make_record: MakeRecord, file_records: FileRecords
) -> None:
    root = file_records(
        calibrated(make_record("static", 0.7), None),
        calibrated(make_record("static", 0.6), "train"),
    )
    assert labels(root) == [
        ["static (calibrated on an unknown text)", "static (calibrated on train)"]
    ]


def test_the_report_names_every_text(make_record: MakeRecord, file_records: FileRecords) -> None:
    root = file_records(
        make_record("none", 0.9),
        calibrated(make_record("static", 0.7), "train"),
        calibrated(make_record("older", 0.6), None),
    )
    section = calibrations(comparable(ResultStore(root=root).load()[0]))
    assert section is not None
    assert section.table is not None
    assert section.table.set_index("recipe").to_dict("index") == {
        "static": {"text": "train", "SHA-256": "ab" * 6, "tokens": "4 x 8", "seed": "1"},
        "older": {"text": "unknown", "SHA-256": "-", "tokens": "-", "seed": "-"},
    }


def test_a_report_without_calibration_has_no_section(
    make_record: MakeRecord, file_records: FileRecords
) -> None:
    root = file_records(make_record("none"), make_record("int8_row"))
    assert calibrations(comparable(ResultStore(root=root).load()[0])) is None


def test_accuracy_beside_a_speed_is_that_of_the_same_text(
    make_record: MakeRecord, file_records: FileRecords
) -> None:
    root = file_records(
        calibrated(make_record("static", 30.0, task="throughput"), "train"),
        calibrated(make_record("static", 20.0, task="perplexity"), "questions"),
        calibrated(make_record("static", 0.25, task="mmlu"), "train"),
    )
    groups = comparable(ResultStore(root=root).load()[0])
    [timed] = [row for group in groups for row in group.rows if group.task.name == "throughput"]
    found = accuracy_of(timed, answer(groups))
    assert found["perplexity"] == "not measured"
    assert found["MMLU"].startswith("25.00 %")


def test_a_run_without_a_result_is_listed_under_its_recipe_s_name(
    make_record: MakeRecord, file_records: FileRecords
) -> None:
    changed = {"recipe": "int8_row (skip=[])", "quant": None}
    failed = make_record("int8_row", status=Status.UNSUPPORTED).model_copy(update=changed)
    older = make_record("int4_row", status=Status.UNSUPPORTED)
    section = not_supported(ResultStore(root=file_records(failed, older)).load()[0])
    assert section is not None
    assert section.table is not None
    assert [*section.table["recipe"]] == ["int8_row (skip=[])", "int4_row"]
