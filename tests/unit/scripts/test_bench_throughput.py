"""The bench of throughput, on the tiny model and eagerly: its figures follow from its raw times."""

import json
import statistics
import sys
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType

import pytest
from script_modules import load_script

from harness.timing import rounds


@pytest.fixture
def bench() -> ModuleType:
    return load_script("bench_throughput")


def test_tables_are_of_the_unquantized_model_and_of_each_recipe(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "bench.json"
    sizes = ["--prompt", "12", "--new", "5", "--batch", "2", "--rounds", "3"]
    recipes = ["--recipes", "int8_row_real", "w8a8_real:quant.name=mine"]
    words = ["--model", "tiny", "--dtype", "float32", "--eager", *sizes, *recipes]
    monkeypatch.setattr(sys, "argv", ["bench", *words, "--out", str(out)])
    # The figures follow from the raw times of the rounds, whatever came before.
    monkeypatch.setattr(bench, "warm_up", lambda run: run())
    monkeypatch.setattr(rounds, "quiet", nullcontext)
    bench.main()
    tables = json.loads(out.read_text())["tables"]
    names = {title: [row["name"] for row in rows] for title, rows in tables.items()}
    assert names["float"] == ["plain", "eager"]
    assert names["int8_row_real"] == ["eager", "int8_row_real, eager"]
    assert len(names) == 3
    for row in (row for rows in tables.values() for row in rows):
        assert len(row["prefill_s"]) == len(row["decode_s"]) == 3
        prefill, decode = map(statistics.median, (row["prefill_s"], row["decode_s"]))
        assert row["prefill_tokens_per_s"] * prefill == pytest.approx(2 * 12)
        assert row["decode_tokens_per_s"] * decode == pytest.approx(2 * 4)
