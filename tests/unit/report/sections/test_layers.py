"""Errors by layer: the worst layer of a recipe is named, and every layer is drawn."""

from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from harness.claims.grouping import comparable
from harness.report.sections.layers import MOST_DRAWN, OUTSIDE, by_layer
from harness.report.sections.section import Picture
from harness.results.record import LayerReport, RunRecord
from harness.results.store import ResultStore

MakeRecord = Callable[..., RunRecord]
ERRORS = {
    "model.layers.0.self_attn.q_proj": 0.01,
    "model.layers.0.mlp.experts.0.up_proj": 0.02,
    "model.layers.0.mlp.experts.1.up_proj": 0.08,
    "model.layers.1.self_attn.q_proj": 0.03,
    "lm_head": 0.04,
}


def with_layers(record: RunRecord, errors: Mapping[str, float]) -> RunRecord:
    layers = tuple(
        LayerReport(
            name=name,
            rule="linear",
            format="int8_row",
            shape=(2, 3),
            bits_per_weight=8,
            rel_error=error,
            short_tail=False,
        )
        for name, error in errors.items()
    )
    assert record.quant is not None
    quant = record.quant.model_copy(update={"layers": layers})
    return record.model_copy(update={"quant": quant})


def values(picture: object) -> list[dict[str, Any]]:
    assert isinstance(picture, Picture)
    data = picture.spec["data"]
    assert isinstance(data, dict)
    return data["values"]  # type: ignore[no-any-return]


def test_each_recipe_has_its_median_and_its_worst_layer(
    make_record: MakeRecord, file_records: Callable[..., Path]
) -> None:
    finer = {name: error / 2 for name, error in ERRORS.items()}
    root = file_records(
        make_record("none"),
        with_layers(make_record("int8_row"), ERRORS),
        with_layers(make_record("int8_g64"), finer),
        with_layers(make_record("int8_row", 9.0, task="perplexity"), ERRORS),
    )
    (section,) = by_layer(comparable(ResultStore(root=root).load()[0]))
    assert section.table is not None
    assert section.table["recipe"].tolist() == ["int8_g64", "int8_row"], "of two tasks once"
    row = section.table.iloc[1]
    worst = max(ERRORS, key=lambda name: ERRORS[name])
    assert row["layer with the largest error"] == worst
    assert float(row["median error"]) == median(ERRORS.values())
    assert float(row["largest error"]) == ERRORS[worst]
    assert float(row["largest / median"]) == pytest.approx(0.08 / 0.03, abs=0.01)
    assert len(section.runs) == 2


def test_layers_of_one_place_share_a_cell_with_their_maximum(
    make_record: MakeRecord, file_records: Callable[..., Path]
) -> None:
    root = file_records(with_layers(make_record("int8_row"), ERRORS))
    (section,) = by_layer(comparable(ResultStore(root=root).load()[0]))
    assert {
        (block, v["kind"]): error
        for v in values(section.picture)
        for block, error in zip(v["block"], v["error"], strict=True)
    } == {
        ("0", "self_attn.q_proj"): 0.01,
        ("0", "mlp.experts.up_proj"): 0.08,
        ("1", "self_attn.q_proj"): 0.03,
        (OUTSIDE, "lm_head"): 0.04,
    }


def test_of_many_recipes_the_worst_are_drawn_and_the_text_says_so(
    make_record: MakeRecord, file_records: Callable[..., Path]
) -> None:
    records = [
        with_layers(make_record(f"r{i}"), {"h.0.w": 0.01 * (i + 1)}) for i in range(MOST_DRAWN + 3)
    ]
    (section,) = by_layer(comparable(ResultStore(root=file_records(*records)).load()[0]))
    assert section.table is not None
    assert len(section.table) == MOST_DRAWN + 3
    drawn = {value["recipe"] for value in values(section.picture)}
    assert drawn == {f"r{i}" for i in range(3, MOST_DRAWN + 3)}
    assert f"The {MOST_DRAWN} recipes with the largest errors" in section.text


def test_errors_of_0_have_no_ratio(
    make_record: MakeRecord, file_records: Callable[..., Path]
) -> None:
    root = file_records(with_layers(make_record("exact"), {"h.0.w": 0.0}))
    (section,) = by_layer(comparable(ResultStore(root=root).load()[0]))
    assert section.table is not None
    assert section.table["largest / median"].tolist() == ["-"]


def test_records_without_layers_have_no_section(
    make_record: MakeRecord, file_records: Callable[..., Path]
) -> None:
    root = file_records(make_record("none"), make_record("int8_row"))
    assert by_layer(comparable(ResultStore(root=root).load()[0])) == []
