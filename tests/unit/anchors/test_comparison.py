"""Which published figures a run is compared with, and what comes of it."""

from typing import Any

import builders
import pytest
from published import anchor, run

from harness.anchors.comparison import Agreement, Finding, findings
from harness.results.record import RunRecord

EMBEDDED = {
    "name": "smollm2_135m",
    "revision": None,
    "fingerprint": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    "origin": "dequantized GGUF (210 x Q4_1), rounded to bfloat16",
}
SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"


def only(record: RunRecord, *known: Any) -> Finding:
    [finding] = findings(record, known or (anchor(),))
    return finding


@pytest.mark.parametrize(
    ("value", "agreement"),
    [
        (6.25, Agreement.REPRODUCES),
        (6.221, Agreement.REPRODUCES),
        # The interval of the run, 5.77 .. 6.77, is about other texts: here both are about one text.
        (6.27, Agreement.DIFFERS),
        (6.20, Agreement.DIFFERS),
    ],
)
def test_a_run_of_the_same_protocol_may_differ_by_the_tolerance(
    value: float, agreement: Agreement
) -> None:
    assert only(run(value)).agreement is agreement


def test_another_protocol_is_answered_with_the_words_that_give_it() -> None:
    finding = only(run(options={"window": 512}))
    assert finding.agreement is Agreement.NOT_COMPARABLE
    assert finding.changes == ("task.window=2048",)
    assert finding.metric is None


@pytest.mark.parametrize(
    "record",
    [
        run(model={"name": "org/other"}),
        run(model={"weights": "random"}),
        run(status="error", error="DataError: gone"),
        run(quant={"name": "int8_row", "kind": "fake-quant"}, recipe="int8_row"),
        run(metrics=(builders.metric("kl_mean"),), task="divergence"),
        run(metrics=(builders.metric(value=None, note="infinite"),)),
        builders.record(model=None, quant=None, status="error"),
    ],
)
def test_nothing_is_said_of_another_model_recipe_or_kind_of_figure(record: RunRecord) -> None:
    assert findings(record, (anchor(),)) == []


def test_a_quantized_figure_is_that_of_the_recipe_that_does_the_same() -> None:
    known = anchor(7.42, quantization="FP8", recipe="torchao_fp8_row")
    named = {"name": "torchao_fp8_row", "kind": "real"}
    assert only(run(7.42, quant=named, recipe="torchao_fp8_row"), known).agreement == "reproduces"
    changed = run(7.42, quant=named, recipe="torchao_fp8_row (skip=[])")
    assert findings(changed, (known,)) == []
    assert findings(run(), (anchor(quantization="INT4 by hand"),)) == []


def test_comparable_figures_silence_the_others() -> None:
    other = anchor(9.1, task="perplexity_documents", metric="word_perplexity", options={})
    assert [found.anchor for found in findings(run(), (other, anchor()))] == [anchor()]
    assert only(run(), other).changes == ("task=perplexity_documents",)


def test_a_protocol_that_no_task_has_cannot_be_compared() -> None:
    finding = only(run(), anchor(task=None, options={}))
    assert (finding.agreement, finding.changes) == (Agreement.NOT_COMPARABLE, ())


def test_dequantized_weights_are_not_the_published_model() -> None:
    known = anchor(model=SMOLLM2)
    finding = only(run(model=EMBEDDED), known)
    assert finding.agreement is Agreement.NOT_COMPARABLE
    assert finding.origin == EMBEDDED["origin"]
    # With another protocol too, the two figures have nothing in common.
    assert findings(run(model=EMBEDDED, options={"window": 512}), (known,)) == []


QUESTIONS = {"task": "mmlu", "data": "mmlu/test", "metric": "accuracy", "options": {"shots": 0}}


def of_questions(asked: int, value: float, interval: tuple[float, float]) -> RunRecord:
    metric = builders.metric("accuracy", value, unit="fraction", n=asked, ci95=interval)
    return run(
        task="mmlu",
        options={"window": None, "shots": 0, "limit": asked, "seed": 7},
        data={
            "name": "mmlu/test",
            "num_questions": asked,
            "num_available": 14042,
            "num_shots": 0,
        },
        metrics=(metric,),
    )


@pytest.mark.parametrize(
    ("record", "agreement"),
    [
        (of_questions(1000, 0.71, (0.68, 0.74)), Agreement.REPRODUCES),
        (of_questions(1000, 0.69, (0.66, 0.719)), Agreement.DIFFERS),
        (of_questions(1000, 0.70, (0.67, 0.729)), Agreement.REPRODUCES),  # by the tolerance
        (of_questions(14042, 0.71, (0.70, 0.74)), Agreement.DIFFERS),
        (of_questions(14042, 0.731, (0.72, 0.74)), Agreement.REPRODUCES),
    ],
)
def test_drawn_questions_are_judged_by_their_interval_all_questions_by_the_tolerance(
    record: RunRecord, agreement: Agreement
) -> None:
    assert only(record, anchor(0.7301, tolerance=0.002, **QUESTIONS)).agreement is agreement


def test_a_metric_of_lm_eval_belongs_to_its_task_alone() -> None:
    known = anchor(
        0.738,
        task="lm_eval",
        metric="winogrande/acc",
        options={"tasks": ("winogrande",)},
        data=None,
    )
    metrics = (builders.metric("winogrande/acc", 0.74), builders.metric("piqa/acc", 0.8))
    options = {"window": None, "tasks": ["piqa", "winogrande"], "limit": None}
    assert only(run(task="lm_eval", options=options, metrics=metrics), known).agreement == (
        Agreement.REPRODUCES
    )
    assert findings(run(task="lm_eval", options=options, metrics=metrics[1:]), (known,)) == []


@pytest.mark.parametrize(
    ("value", "agreement"),
    [
        (6.22, Agreement.REPRODUCES),
        (6.26, Agreement.REPRODUCES),
        (6.219, Agreement.DIFFERS),
        (6.261, Agreement.DIFFERS),
    ],
)
def test_tolerance_itself_reproduces_on_both_sides(value: float, agreement: Agreement) -> None:
    (found,) = findings(run(value), [anchor(6.24)])
    assert found.agreement is agreement
