"""Every table of the INT8/FP8 study is found in a report by its name, with its numbers."""

import math
from collections.abc import Mapping

import builders
import numpy as np
import pandas as pd
import pytest
from filed import file_with_samples
from scipy import stats
from studies import record_maker

from harness.report.contents import answered_of, collect
from harness.report.intake import take_in
from harness.report.sections.section import Section
from harness.results.record import LayerReport, RunRecord, SampleScore, TaskInfo, Unit

REAL = "harness.backends.scaled_mm.ScaledMMBackend"
TORCHAO = "harness.backends.torchao.TorchaoBackend"
SMOOTH = "harness.backends.torchao.TorchaoSmoothQuantBackend"
RECIPES: Mapping[str, tuple[str, float, str]] = {
    "none": ("", 0.0, "fake"),
    "int8_row": ("int8_row", 0.010, "fake"),
    "int8_g64": ("int8_g64", 0.005, "fake"),
    "fp8_row": ("fp8_e4m3fn_row", 0.030, "fake"),
    "fp8_g64": ("fp8_e4m3fn_g64", 0.020, "fake"),
    "int8_row_real": ("int8_row", 0.011, REAL),
    "torchao_int8_dynamic": ("int8_row", 0.060, TORCHAO),
    "torchao_int8_smooth": ("int8_row", 0.040, SMOOTH),
}
"""Recipe -> format, loss [nat/token] and backend."""
NUM = 20
ANY = [SampleScore(id="0", cluster="0", scores={"num_tokens": 1.0, "seconds": 1.0})]
LAYER = LayerReport(
    name="proj",
    rule="linear",
    format="int8_g64",
    shape=(6, 100),
    bits_per_weight=8 + 32 * 12 / 600,
    rel_error=0.01,
    short_tail=True,
)


def texts(recipe: str) -> np.ndarray:
    """Log-loss of each of the documents, which all have one length."""
    rng = np.random.default_rng([3, len(recipe), *recipe.encode()])
    return np.linspace(2.0, 4.0, NUM) + RECIPES[recipe][1] + rng.normal(0, 0.001, NUM)


def of_text(recipe: str) -> list[SampleScore]:
    return [
        SampleScore(
            id=f"{index:03d}",
            cluster=str(index),
            scores={"nll": 5 * loss, "num_tokens": 5},
            token_nll=(loss,) * 5,
            token_document=(index,) * 5,
        )
        for index, loss in enumerate(texts(recipe).tolist())
    ]


def of_questions(num_right: int) -> list[SampleScore]:
    return [
        SampleScore(id=f"{i:03d}", cluster=str(i % 10), scores={"correct": float(i < num_right)})
        for i in range(100)
    ]


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Section]]:
    """The sections of a small study, by name."""
    root, make_record = tmp_path_factory.mktemp("study"), record_maker()
    for recipe, (fmt, _, backend) in RECIPES.items():
        same = {"fmt": fmt, "backend": backend, "rules": fmt}
        value = math.exp(texts(recipe).mean())
        record = make_record(recipe, value, "perplexity", **same)
        if recipe == "int8_g64":
            assert record.quant is not None
            quant = record.quant.model_copy(update={"layers": (LAYER,)})
            record = record.model_copy(update={"quant": quant})
        headline = record.metrics[0].model_copy(update={"n": 5 * NUM})
        file_with_samples(root, record.model_copy(update={"metrics": (headline,)}), of_text(recipe))
        for task in ("mmlu", "mmlu_generate"):
            asked = make_record(recipe, 0.5, task, **same)
            headline = asked.metrics[0].model_copy(update={"n": 100})
            asked = asked.model_copy(update={"metrics": (headline,)})
            file_with_samples(root, asked, of_questions(50))
    parity = builders.metric("logprob_difference", 0.001, n=1, unit=Unit.NAT_PER_TOKEN)
    within = builders.metric("within_tolerance", 1.0, n=1, unit=Unit.ONE)
    real = {"fmt": "int8_row", "rules": "int8_row", "backend": REAL}
    record = make_record("int8_row_real", task="parity", metrics=(parity, within), **real)
    file_with_samples(root, record, ANY)
    speed = builders.metric("prefill", 1000.0, n=1, unit=Unit.TOKEN_PER_S)
    shape = {"options": {"prompt_tokens": 512}}
    record = make_record("int8_row_real", task="throughput", metrics=(speed,), **shape, **real)
    file_with_samples(root, record, ANY)
    file_with_samples(root, matmul(make_record()), ANY)
    stored, problems = take_in(root)
    found = collect(stored, answered_of(stored), problems, root.with_name("r.md"))
    assert problems == []
    by_name: dict[str, list[Section]] = {}
    for section in found:
        by_name.setdefault(section.name, []).append(section)
    return by_name


def matmul(record: RunRecord) -> RunRecord:
    data = {"name": "x", "inputs": ["normal"], "shapes": ["2x4"], "formats": {"int8": "int8"}}
    task = TaskInfo(
        name="matmul",
        version=1,
        protocol="p",
        data={**data, "ratios": [["int8", "int8"]]},
        needs_model=False,
    )
    errors = (builders.metric("rel_error/both/normal/2x4/int8", 0.02, n=1, unit=Unit.ONE),)
    changes = {"model": None, "quant": None, "task": task, "metrics": errors}
    return RunRecord.model_validate(record.model_copy(update=changes).model_dump())


def table(sections: list[Section], word: str = "perplexity") -> pd.DataFrame:
    """The table of the section whose title has a word."""
    (found,) = (each.table for each in sections if word in each.title)
    assert found is not None
    return found.set_index(found.columns[0])


def test_each_table_of_the_study_is_found_by_its_name(tables: dict[str, list[Section]]) -> None:
    titles = {
        "ranking": "Ranking against the baseline",
        "int8-against-fp8": "INT8 against FP8 by granularity",
        "group-size-trend": "Group-size trend",
        "direct-against-generate": "Direct against generate",
        "fake-against-real": "Fake against real",
        "smoothquant": "SmoothQuant",
        "matmul-error": "Matmul error",
        "cost-of-scales": "Cost of the scales",
        "throughput": "Throughput",
    }
    for name, title in titles.items():
        assert tables[name], name
        assert all(each.title.startswith(title) for each in tables[name])
    order = list(tables)
    assert order[0] == "answer"
    assert max(map(order.index, titles)) < order.index("appendices")
    assert order[-1] == "reading"


def test_mean_over_granularities_is_tested_by_document(tables: dict[str, list[Section]]) -> None:
    row = table(tables["int8-against-fp8"]).loc["mean of 2"]
    pairs = (("int8_row", "fp8_row"), ("int8_g64", "fp8_g64"))
    differences = np.mean([texts(one) - texts(other) for one, other in pairs], axis=0)
    assert row["relative"] == f"{100 * math.expm1(differences.mean()):+.3f} %"
    assert float(row["p"]) == pytest.approx(stats.ttest_1samp(differences, 0).pvalue, rel=0.05)
    (section,) = (each for each in tables["int8-against-fp8"] if "perplexity" in each.title)
    assert "INT8 is ahead at 2 of 2 granularities" in section.text


def test_trend_has_a_difference_from_the_baseline(tables: dict[str, list[Section]]) -> None:
    row = table(tables["group-size-trend"]).loc["64 weights"]
    change = 100 * math.expm1((texts("fp8_g64") - texts("none")).mean())
    assert row["FP8 E4M3 - baseline"].startswith(f"{change:+.3g} [")


def test_fake_and_real_stand_side_by_side(tables: dict[str, list[Section]]) -> None:
    row = table(tables["fake-against-real"]).loc["int8_row_real"]
    (section,) = (each for each in tables["fake-against-real"] if "perplexity" in each.title)
    assert "fake form int8_row" in section.text  # in every row
    assert f"fake {math.exp(texts('int8_row').mean()):.4f}" in section.text
    assert row["real"] == f"{math.exp(texts('int8_row_real').mean()):.4f}"
    assert row["parity"] == "real = fake"


def test_smoothing_is_compared_with_no_smoothing_in_every_task(
    tables: dict[str, list[Section]],
) -> None:
    found = table(tables["smoothquant"], "SmoothQuant")
    assert sorted(found.index) == ["mmlu", "mmlu_generate", "perplexity"]
    change = 100 * math.expm1((texts("torchao_int8_smooth") - texts("torchao_int8_dynamic")).mean())
    assert found.loc["perplexity", "difference"].startswith(f"{change:+.3g} %")
    assert found.loc["perplexity", "smoothing is"] == "better"
    assert found.loc["mmlu", "smoothing is"] == "cannot tell"


def test_scales_are_counted_row_by_row(tables: dict[str, list[Section]]) -> None:
    row = table(tables["cost-of-scales"], "Cost").loc["int8_g64"]
    # Each row of 100 weights has a group of 64 and one of 36.
    assert (row["scales"], row["bytes"]) == ("12", "48")
    assert row["of the model"] == f"{100 * 48 / 1600:.3f} %"


def test_throughput_has_prompts_a_second(tables: dict[str, list[Section]]) -> None:
    assert table(tables["throughput"], "Throughput")["prefill [samples/s]"].iloc[0] == "1.95"


def test_matmul_error_says_which_table_is_that_of_the_study(
    tables: dict[str, list[Section]],
) -> None:
    of_study = [each.title for each in tables["matmul-error"] if "published" in each.text]
    assert of_study == ["Matmul error, element error"]
