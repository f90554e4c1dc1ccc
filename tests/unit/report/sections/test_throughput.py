"""Speeds in reports: never alone, never fake-quantized, never across shapes or machines."""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from items import with_items
from scipy import stats as scipy_stats
from timed_rounds import rounds_of

from harness.claims import answer
from harness.claims.grouping import comparable
from harness.report.__main__ import write
from harness.report.sections.throughput import bars_of, throughput
from harness.results import float_paths
from harness.results.record import Metric, RunRecord, SampleScore, Status, Unit
from harness.results.store import ResultStore

MakeRecord = Callable[..., RunRecord]
SHAPE = {"batch_size": 1, "prompt_tokens": 512, "new_tokens": 64, "cache": "static", "rounds": 12}
UNITS = {
    "decode": "token/s",
    "prefill": "token/s",
    "ttft": "s",
    "tpot": "s/token",
    "weight_bytes": "byte",
    "kv_bytes": "byte",
    "energy_per_token": "J/token",
}


def metric(
    name: str,
    value: float | None,
    ci95: tuple[float, float] | None = None,
    note: str | None = "no interval",
) -> Metric:
    plain = name.removeprefix("baseline_").removeprefix("float32_").removesuffix("_iqr")
    return Metric(
        name=name,
        value=value,
        unit=Unit(UNITS.get(plain, "1")),
        n=12,
        n_of="round",
        ci95=ci95,
        higher_is_better=True,
        note=None if ci95 else note,
    )


def speeds(
    decode: float,
    prefill: float,
    ratio: tuple[float, float, float] | None = None,
    energy: float | None = None,
) -> tuple[Metric, ...]:
    found = [
        metric("decode", decode),
        metric("decode_iqr", decode / 50),
        metric("prefill", prefill),
        metric("prefill_iqr", prefill / 20),
        metric("ttft", 512 / prefill),
        metric("tpot", 1 / decode),
        metric("weight_bytes", 134.5e6),
        metric("kv_bytes", 23.6e6),
        metric("decode_mbu", 0.456),
        metric("prefill_mfu", None, note="the peak could not be measured"),
        metric("energy_per_token", energy, note="no counter of energy can be read"),
    ]
    if ratio:
        value, low, high = ratio
        found += [
            metric(f"{phase}_ratio", value, (low, high)).model_copy(
                update={"note": "to the unquantized model with native products"}
            )
            for phase in ("decode", "prefill")
        ]
        found += [metric("baseline_decode", decode / value), metric("baseline_drift", -0.013)]
        found += [metric("baseline_prefill", prefill / value)]
    return tuple(found)


@dataclass
class Study:
    """A folder of records, filed as a run would."""

    make: MakeRecord
    root: Path

    def add(self, *arguments: Any, samples: list[SampleScore] | None = None, **facts: Any) -> None:
        record = self.make(*arguments, **facts)
        store = ResultStore(root=self.root)
        folder = record.task.name if record.task else "t"
        path = store.path(record, task=folder, model="m", recipe=arguments[0])
        if samples:
            name, digest = store.write_samples(path, samples)
            record = record.model_copy(update={"samples_file": name, "samples_sha256": digest})
        if record.status is Status.UNSUPPORTED:
            nothing = {"model": None, "quant": None, "task": None, "metrics": ()}
            record = record.model_copy(update=nothing)
        if folder == "throughput":  # an accuracy may come from a record whose items were not kept
            path.parent.mkdir(parents=True, exist_ok=True)
            record = with_items(path, record)
        store.write(path, record)

    def time(self, recipe: str, numbers: tuple[Metric, ...], **facts: Any) -> None:
        shape = {"options": SHAPE, "samples": rounds_of(numbers)} | facts
        self.add(recipe, task="throughput", metrics=numbers, **shape)

    def table(self, tmp_path: Path) -> dict[str, dict[str, str]]:
        return self.section(tmp_path)[0]

    def section(self, tmp_path: Path) -> tuple[dict[str, dict[str, str]], str]:
        stored, _ = ResultStore(root=self.root).load()
        groups = comparable(stored)
        sections = [throughput(g, answer(groups), stored, tmp_path / "p.png") for g in groups]
        (found,) = (section for section in sections if section is not None)
        assert found.table is not None
        return found.table.set_index("recipe").to_dict("index"), found.text


@pytest.fixture
def study(make_record: MakeRecord, tmp_path: Path) -> Study:
    return Study(make_record, tmp_path / "results")


FLOAT = speeds(40.0, 1000.0)
FASTER = speeds(61.2, 1420.0, (1.53, 1.5, 1.56))
REAL = {"backend": "scaled_mm", "rules": "int8_row"}


# The table


def test_row_has_speed_spread_ratio_sizes_and_accuracy(study: Study, tmp_path: Path) -> None:
    study.time("none", FLOAT)
    study.time("int8_row_real", FASTER, **REAL)
    table = study.table(tmp_path)
    assert table["int8_row_real"] == {
        "path": "real/scaled_mm",
        "decode [token/s]": "61.2 (IQR 1.22, n = 12)",
        "float decode beside it [token/s]": "40.0 native",
        "decode / float, native products": "1.530 [1.500, 1.560], faster (p = 0.00049)",
        "prefill [token/s]": "1,420 (IQR 71.0, n = 12)",
        "float prefill beside it [token/s]": "928 native",
        "prefill / float, native products": "1.530 [1.500, 1.560], faster (p = 0.00049)",
        "prefill [samples/s]": "2.77",
        "perplexity": "not measured",
        "MMLU": "not measured",
        "TTFT [ms]": "361",
        "TPOT [ms]": "16.3",
        "decode MBU": "45.6 %",
        "prefill MFU": "-",
        "weights": "134.50 MB",
        "keys and values": "23.60 MB",
        "energy [J/token]": "-",
        "drift of float": "-1.3 %",
    }
    assert table["baseline"]["decode / float, native products"] == "1 (float)"
    assert list(table) == ["int8_row_real", "baseline"]


@pytest.mark.parametrize(
    ("ratio", "words"),
    [
        ((1.5, 1.4, 1.6), "faster (p = 0.00049)"),
        ((1.02, 0.99, 1.05), "cannot tell (p = 0.0068)"),
        ((1.0, 1.0, 1.0), "cannot tell (p = 1)"),
        ((0.7, 0.6, 0.99), "slower (p = 0.00049)"),
    ],
)
def test_faster_or_slower_only_where_the_interval_excludes_one(
    study: Study, tmp_path: Path, ratio: tuple[float, float, float], words: str
) -> None:
    study.time("int8_row_real", speeds(50.0, 1000.0, ratio), **REAL)
    cell = study.table(tmp_path)["int8_row_real"]["decode / float, native products"]
    assert cell.endswith(f"], {words}")


def test_a_record_without_rounds_has_its_ratio_and_says_why_there_is_no_test(
    study: Study, tmp_path: Path
) -> None:
    study.time("int8_row_real", FASTER, **REAL, samples=None)
    table, text = study.section(tmp_path)
    row = table["int8_row_real"]
    assert row["decode / float, native products"] == "1.530 [1.500, 1.560], no test"
    assert text.count("int8_row_real: no test: the record does not have the times") == 1


def test_a_ratio_without_an_interval_claims_nothing(study: Study, tmp_path: Path) -> None:
    numbers = [m for m in FASTER if not m.name.endswith("_ratio")]
    study.time("int8_row_real", (*numbers, metric("decode_ratio", 3.0)), **REAL, samples=None)
    row = study.table(tmp_path)["int8_row_real"]
    assert row["decode / float, native products"] == "3.000 (no interval), no test"
    assert row["prefill / float, native products"] == "-"


def test_a_drift_is_said_of_a_claim_that_is_not_beyond_it(study: Study, tmp_path: Path) -> None:
    numbers = speeds(50.0, 1000.0, (1.04, 1.03, 1.05))
    drifted = [m for m in numbers if m.name != "baseline_drift"]
    study.time("int8_row_real", (*drifted, metric("baseline_drift", -0.045)), **REAL)
    table, text = study.section(tmp_path)
    cell = table["int8_row_real"]["decode / float, native products"]
    assert cell == "1.040 [1.030, 1.050], cannot tell (p = 0.00049)"
    assert "int8_row_real: the run is unstable, the unquantized model drifted by 4.5 %." in text


def test_what_is_missing_has_its_reason_once(study: Study, tmp_path: Path) -> None:
    study.time("none", FLOAT)
    study.time("int8_row_real", FASTER, **REAL)
    text = study.section(tmp_path)[1]
    assert text.count("no counter of energy can be read") == 1
    assert "No prefill mfu: the peak could not be measured" in text
    assert text.startswith("Machine: cpu (instructions not known), 1 thread\n")


# Two ways of the unquantized model


def beside_both(float32: float, best: tuple[float, float, float]) -> tuple[Metric, ...]:
    """Speeds of a recipe: prefill beside native matmuls at 1420 / 1.53 token/s, and float32."""
    value, *interval = best
    is_faster = float32 > 1420.0 / 1.53
    of_float32 = value if is_faster else 1420.0 / float32
    bounds = (interval[0], interval[1])
    own = bounds if is_faster else (of_float32 - 0.01, of_float32 + 0.01)
    return (
        *FASTER,
        metric("baseline_float32_prefill", float32),
        metric("prefill_ratio_float32", of_float32, own),
        metric("prefill_ratio_best", value, bounds),
    )


@pytest.mark.parametrize(
    ("float32", "best", "cell"),
    [
        (
            1415.0,
            (1.004, 0.99, 1.02),
            "1.004 [0.990, 1.020] of float32 products, cannot tell (p = 0.15)",
        ),
        (
            1600.0,
            (0.888, 0.88, 0.9),
            "0.888 [0.880, 0.900] of float32 products, slower (p = 0.00098)",
        ),
        (500.0, (1.53, 1.5, 1.56), "1.530 [1.500, 1.560] of native products, faster (p = 0.00098)"),
    ],
)
def test_a_ratio_is_to_the_way_of_the_float_model_that_its_column_and_cell_name(
    study: Study, tmp_path: Path, float32: float, best: tuple[float, float, float], cell: str
) -> None:
    study.time("int8_row_real", beside_both(float32, best), **REAL, dtype="bfloat16")
    study.time("none", (*FLOAT, metric("baseline_float32_prefill", 700.0)), dtype="bfloat16")
    table, text = study.section(tmp_path)
    row = table["int8_row_real"]
    assert row["prefill / float, native products"] == "1.530 [1.500, 1.560], faster (p = 0.00098)"
    assert row["prefill / float, the faster products"] == cell
    beside = f"928 native, {float32:,.0f} float32"
    assert row["float prefill beside it [token/s]"] == beside
    assert table["baseline"]["float prefill beside it [token/s]"] == "700 float32"
    assert table["baseline"]["prefill / float, the faster products"] == "-"
    # Decoding one sequence is the same in both ways.
    assert "decode / float, the faster products" not in row
    assert "native products alone" not in text


@pytest.mark.parametrize(
    ("facts", "named"),
    [({"dtype": "bfloat16"}, True), ({}, False), ({"dtype": "bfloat16", "device": "cuda"}, False)],
)
def test_a_ratio_of_before_float32_products_were_timed_says_what_is_not_known(
    study: Study, tmp_path: Path, facts: dict[str, str], named: bool
) -> None:
    old = "to the unquantized model in interleaved rounds; bootstrap over rounds"
    numbers = [m.model_copy(update={"note": old}) if "ratio" in m.name else m for m in FASTER]
    study.time("int8_row_real", tuple(numbers), **REAL, **facts)
    text = study.section(tmp_path)[1]
    assert ("int8_row_real was timed beside native products alone" in text) is named


def test_line_of_an_unquantized_run_has_its_speed_in_both_ways() -> None:
    beside = {m.name: m for m in beside_both(1420.0, (1.0, 0.99, 1.01))}
    assert float_paths.speeds_in_words(beside.get) == ""  # its ratios are claims
    alone = {m.name: m for m in (*FLOAT, metric("baseline_float32_prefill", 700.0))}
    said = float_paths.speeds_in_words(alone.get)
    assert said == "prefill: 1,000 native, 700 float32 products [token/s]"
    assert float_paths.speeds_in_words({m.name: m for m in FLOAT}.get) == ""
    assert float_paths.speeds_in_words({}.get) == ""


# Accuracy beside it


TOKENS = 100
NLL = np.random.default_rng(0).normal(3.0, 0.4, 12)
EXTRA = np.random.default_rng(1).normal(0.01, 0.002, 12)


def windows(nll: np.ndarray) -> list[SampleScore]:
    return [
        SampleScore(
            id=str(i),
            cluster=str(i),
            scores={"nll": v * TOKENS, "num_tokens": TOKENS},
            token_nll=(v,) * TOKENS,
            token_document=(i,) * TOKENS,
        )
        for i, v in enumerate(nll.tolist())
    ]


def answers(correct: np.ndarray) -> list[SampleScore]:
    return [
        SampleScore(id=str(i), cluster="s", scores={"correct": float(v)})
        for i, v in enumerate(correct)
    ]


def add_accuracy(study: Study, recipe: str, **facts: Any) -> None:
    study.add("none", 20.0, "perplexity", samples=windows(NLL))
    study.add(recipe, 20.2, "perplexity", samples=windows(NLL + EXTRA), **facts)


def test_perplexity_of_the_same_recipe_has_its_paired_difference(
    study: Study, tmp_path: Path
) -> None:
    study.time("none", FLOAT)
    study.time("int8_row_real", FASTER, **REAL)
    add_accuracy(study, "int8_row_real", **REAL)
    table = study.table(tmp_path)
    bounds = scipy_stats.ttest_1samp(EXTRA, 0).confidence_interval(0.95)
    low, high, mean = (100 * math.expm1(x) for x in (*bounds, EXTRA.mean()))
    expected = f"20.2000 ({mean:+.3g} % of the perplexity [{low:+.3g}, {high:+.3g}], worse)"
    assert table["int8_row_real"]["perplexity"] == expected
    assert table["baseline"]["perplexity"] == "20.0000 (baseline)"
    assert table["int8_row_real"]["MMLU"] == "not measured"


def test_accuracy_of_questions_is_paired_too(study: Study, tmp_path: Path) -> None:
    before = np.arange(50) % 2
    after = before.copy()
    after[:4] = [1, 0, 0, 0]
    study.time("int8_row_real", FASTER, **REAL)
    study.add("none", 0.5, "mmlu", samples=answers(before))
    study.add("int8_row_real", 0.48, "mmlu", samples=answers(after), **REAL)
    cell = study.table(tmp_path)["int8_row_real"]["MMLU"]
    change = 100.0 * float((after - before).mean())
    assert cell.startswith(f"48.00 % ({change:+.3g} pp [")
    # One answer turned right and one wrong.
    assert cell.endswith("], cannot tell)")


def test_accuracy_by_the_text_of_choices_is_named_and_letters_come_first(
    study: Study, tmp_path: Path
) -> None:
    right = np.arange(50) % 2
    study.time("int8_row_real", FASTER, **REAL)
    for task, accuracy in (("mmlu_cloze", 0.3), ("mmlu", 0.5)):
        study.add("none", accuracy, task, samples=answers(right))
        study.add("int8_row_real", accuracy, task, samples=answers(right), **REAL)
        shown = "30.00 % (mmlu_cloze; +0 pp [" if task == "mmlu_cloze" else "50.00 % (+0 pp ["
        assert study.table(tmp_path)["int8_row_real"]["MMLU"].startswith(shown)


def test_fake_form_stands_in_and_is_named(study: Study, tmp_path: Path) -> None:
    study.time("int8_row_real", FASTER, **REAL)
    add_accuracy(study, "int8_row")
    cell = study.table(tmp_path)["int8_row_real"]["perplexity"]
    assert cell.startswith("20.2000 (of int8_row, its fake-quantized form; +")


@pytest.mark.parametrize(("within", "stands_in"), [(1.0, True), (0.0, False)])
@pytest.mark.parametrize("options", [{}, {"alpha": 0.5}])
def test_parity_decides_whether_the_fake_form_stands_in(
    study: Study, tmp_path: Path, within: float, stands_in: bool, options: dict[str, float]
) -> None:
    real = REAL | {"backend_options": options}
    study.time("int8_row_real", FASTER, **real)
    add_accuracy(study, "int8_row")
    verdicts = (metric("logprob_difference", 0.1), metric("within_tolerance", within))
    study.add("int8_row_real", task="parity", metrics=verdicts, **real)
    cell = study.table(tmp_path)["int8_row_real"]["perplexity"]
    assert ("its fake-quantized form" in cell) is stands_in
    assert (cell == "not measured") is not stands_in


def test_backend_with_options_of_its_own_is_not_taken_for_the_fake_form(
    study: Study, tmp_path: Path
) -> None:
    study.time("int8_row_smooth", FASTER, **REAL, backend_options={"alpha": 0.5})
    add_accuracy(study, "int8_row")
    assert study.table(tmp_path)["int8_row_smooth"]["perplexity"] == "not measured"


def test_real_recipe_s_own_accuracy_comes_first(study: Study, tmp_path: Path) -> None:
    study.time("int8_row_real", FASTER, **REAL)
    add_accuracy(study, "int8_row")
    study.add("int8_row_real", 21.0, "perplexity", samples=windows(NLL + 0.05), **REAL)
    cell = study.table(tmp_path)["int8_row_real"]["perplexity"]
    assert cell.startswith("21.0000 (+5.13 % ")


@pytest.mark.parametrize(
    "facts",
    [
        {"fingerprint": "other"},
        {"dtype": "bfloat16"},
        {"rules": "int8_g64"},
        {"backend": "torchao", "rules": "int8_row"},
    ],
)
def test_accuracy_of_another_model_type_recipe_or_backend_does_not_count(
    study: Study, tmp_path: Path, facts: dict[str, str]
) -> None:
    study.time("int8_row_real", FASTER, **REAL)
    study.add("int8_row_real", 20.2, "perplexity", **facts)
    [(name, cells)] = study.table(tmp_path).items()
    # Words tell the timed recipe apart from another one of its name.
    assert name.startswith("int8_row_real")
    assert cells["perplexity"] == "not measured"


def test_accuracy_without_items_or_baseline_is_still_shown(study: Study, tmp_path: Path) -> None:
    study.time("int8_row_real", FASTER, **REAL)
    study.add("int8_row_real", 20.2, "perplexity", **REAL)
    assert study.table(tmp_path)["int8_row_real"]["perplexity"] == "20.2000 (no baseline)"
    study.add("none", 20.0, "perplexity")
    assert study.table(tmp_path)["int8_row_real"]["perplexity"] == "20.2000 (+0.2000, no interval)"


def test_random_weights_are_marked_and_have_no_accuracy(study: Study, tmp_path: Path) -> None:
    study.time("none", FLOAT, weights="random")
    add_accuracy(study, "int8_row")
    table, text = study.section(tmp_path)
    assert table["baseline"]["perplexity"] == table["baseline"]["MMLU"] == "n/a (random weights)"
    assert "The weights are random" in text
    report = write(study.root, tmp_path, "r").read_text(encoding="utf-8")
    shape = "batch size 1, prompt tokens 512, new tokens 64, cache static"
    assert f"## Throughput: m (random weights), float32 on cpu, {shape}\n" in report


# What cannot run


def test_fake_quantized_row_has_no_speed_and_a_reason(study: Study, tmp_path: Path) -> None:
    refused = {
        "status": Status.UNSUPPORTED,
        "error": "UnsupportedRecipe: a recipe must be one of a real backend for throughput, got "
        "int8_row",
    }
    study.time("none", FLOAT)
    study.time("int8_row", FLOAT, **refused)
    study.time("int4_row", FLOAT, **refused, options={**SHAPE, "batch_size": 8})
    table, text = study.section(tmp_path)
    assert [name for name, cell in table["int8_row"].items() if cell == "n/a"] == [
        "decode [token/s]",
        "decode / float, native products",
        "prefill [token/s]",
        "prefill / float, native products",
        "prefill [samples/s]",
    ]
    assert set(table["int8_row"].values()) == {"n/a", "-"}
    assert "n/a, int8_row: UnsupportedRecipe: a recipe must be one of a real backend" in text
    assert "int4_row" not in table
    report = write(study.root, tmp_path, "r").read_text(encoding="utf-8")
    section = report.split("## Not supported here", 1)[1].split("\n## ", 1)[0]
    rows = [line for line in section.splitlines() if line.startswith("| throughput ")]
    assert len(rows) == 2
    assert "must be one of a real backend for throughput" in section
    assert "Runs without a result" not in report


def test_unsupported_run_that_was_repeated_is_listed_once_or_not_at_all(
    study: Study, tmp_path: Path
) -> None:
    study.time("none", FLOAT)
    for _ in range(2):
        study.time("int8_row", FLOAT, status=Status.UNSUPPORTED, config_hash="h", **REAL)
    report = write(study.root, tmp_path, "r").read_text(encoding="utf-8")
    assert report.split("## Not supported here")[1].split("##")[0].count("| throughput | m ") == 1
    study.time("int8_row", FASTER, config_hash="h", **REAL)
    assert "Not supported here" not in write(study.root, tmp_path, "r").read_text(encoding="utf-8")


def test_run_that_ended_well_elsewhere_leaves_its_refusal_here_in_the_report(
    study: Study, tmp_path: Path
) -> None:
    for cpu in ("here", "there"):
        study.time("none", FLOAT, cpu=cpu)
        study.time("int8_row", FLOAT, cpu=cpu, status=Status.UNSUPPORTED, config_hash="h", **REAL)
    study.time("int8_row", FASTER, cpu="there", config_hash="h", **REAL)
    report = write(study.root, tmp_path, "r").read_text(encoding="utf-8")
    assert report.split("## Not supported here")[1].split("##")[0].count("| throughput | m ") == 1
    here, there = (
        report.split(f"Machine: {cpu} (")[1].split("\n## ")[0] for cpu in ("here", "there")
    )
    assert ("n/a, `int8_row`" in here, "n/a, `int8_row`" in there) == (True, False)
    assert ("1.530" in here, "1.530" in there) == (False, True)


# What may be compared


@pytest.mark.parametrize(
    "other",
    [
        {"options": {**SHAPE, "batch_size": 8}},
        {"options": {**SHAPE, "cache": "dynamic"}},
        {"options": {**SHAPE, "compile": True}},
        {"weights": "random"},
        {"dtype": "bfloat16"},
        {"device": "cuda"},
        {"cpu": "another processor"},
    ],
)
def test_runs_of_another_shape_machine_type_or_of_random_weights_are_apart(
    study: Study, other: dict[str, Any]
) -> None:
    study.time("none", FLOAT)
    study.time("int8_row_real", FASTER, **REAL)
    study.time("int8_row_real", FASTER, **REAL, **other)
    groups = comparable(ResultStore(root=study.root).load()[0])
    assert sorted(len(group.rows) for group in groups) == [1, 2]


# The picture


def test_bars_have_spread_and_the_float_model_timed_beside(study: Study) -> None:
    study.time("none", FLOAT)
    study.time("int8_row_real", FASTER, **REAL)
    (group,) = comparable(ResultStore(root=study.root).load()[0])
    fast, float_bar = bars_of(group, "decode")
    assert (fast.label, fast.value, fast.spread) == ("int8_row_real", 61.2, 61.2 / 50)
    assert fast.beside == pytest.approx({"native": 40.0})
    assert (float_bar.label, float_bar.is_baseline, float_bar.beside) == ("float", True, {})


def test_report_shows_the_picture_it_wrote(study: Study, tmp_path: Path) -> None:
    study.time("none", FLOAT)
    study.time("int8_row_real", FASTER, **REAL)
    path = write(study.root, tmp_path / "reports", "speed")
    picture = path.with_name("speed-throughput-1.png")
    assert f"({picture.name})" in path.read_text(encoding="utf-8")
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size > 10_000


def test_report_without_matplotlib_says_what_to_install(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study.time("none", FLOAT)
    study.time("int8_row_real", FASTER, **REAL)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    path = write(study.root, tmp_path / "reports", "speed")
    text = path.read_text(encoding="utf-8")
    assert not [*path.parent.glob("*.png")]
    assert "| `int8_row_real`" in text
    assert text.count("pip install 'llm-quant-harness\\[plots\\]'") == 1
    assert "![" not in text


def test_one_row_makes_no_picture(study: Study, tmp_path: Path) -> None:
    study.time("none", FLOAT)
    study.section(tmp_path)
    assert not (tmp_path / "p.png").exists()
