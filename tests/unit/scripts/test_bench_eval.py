"""The pure parts of `scripts/bench_eval.py`: which questions, how many FLOP, who agrees, what is met."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from repository import ROOT
from torch.utils.flop_counter import FlopCounterMode

from harness.data.embedded import EmbeddedData
from harness.engines.local.engine import LocalEngine
from harness.models.loaded import LoadedModel
from harness.results.record import SampleScore
from harness.tasks.mmlu import MMLU, Direct
from harness.tasks.mmlu.prompt import prompt

sys.path.append(str(ROOT / "scripts"))

import bench_eval
import bench_reference as reference

SIZE = reference.Size(linear=1000, head=300, attention=7)


def direct_sample(name: str, log_probs: list[float]) -> SampleScore:
    scores = {f"log_prob_{letter}": x for letter, x in zip("ABCD", log_probs, strict=True)}
    return SampleScore(id=name, cluster="s", scores=scores)


def one_by_one(start: int, stop: int, scored: int) -> int:
    """FLOP, token by token."""
    body = sum(2 * 1000 + 4 * 7 * (position + 1) for position in range(start, stop))
    return body + 2 * 300 * scored


@pytest.mark.parametrize(("start", "stop", "scored"), [(0, 1, 1), (0, 9, 9), (4, 9, 2), (5, 5, 0)])
def test_flop_of_a_span_are_those_of_its_tokens(start: int, stop: int, scored: int) -> None:
    found = reference.span(SIZE, start, stop, scored)
    assert found == (stop - start, one_by_one(start, stop, scored))


def test_linear_flop_are_those_that_torch_counts(tiny: LoadedModel) -> None:
    size = reference.Size.of(tiny.module)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        tiny.module(torch.zeros(1, 10, dtype=torch.long), use_cache=False)
    counted = sum(
        flop for op, flop in counter.get_flop_counts()["Global"].items() if "mm" in str(op)
    )
    assert reference.span(size._replace(attention=0), 0, 10, scored=10).flop == counted
    assert size.attention == 2 * 4 * 12  # layers, heads, size of a head


def test_tree_work_runs_shared_tokens_once() -> None:
    prompts = [[1, 2, 3, 9], [1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 7], [8, 8]]
    found = reference.tree_work(SIZE, prompts, [1, 1, 3, 1])
    nodes = [(0, 3, 0), (3, 4, 1), (3, 4, 0), (4, 6, 1), (4, 5, 1), (0, 2, 1)]
    decoded = (5, 7, 2)
    tokens = 3 + 1 + 1 + 2 + 1 + 2 + 2
    assert found == (tokens, sum(one_by_one(*span) for span in [*nodes, decoded]))


def test_tree_work_has_the_tokens_that_an_engine_runs_for_mmlu(tiny: LoadedModel) -> None:
    every = EmbeddedData().questions()
    data = replace(every, questions=every.questions[:9])
    task = MMLU(data=SimpleNamespace(questions=lambda: data), answer=Direct())
    task.run(LocalEngine(tiny))  # the first time it also tries whether prompts can share
    counted: list[int] = []

    def count(module: object, inputs: object, output: torch.Tensor) -> None:
        counted.append(output.shape[:-1].numel())

    with tiny.module.model.layers[0].mlp.register_forward_hook(count):
        task.run(LocalEngine(tiny))
    texts = [prompt(q, data.shots(q, data.default_shots)) for q in data.questions]
    ids = tiny.tokenizer(texts)["input_ids"]
    assert reference.tree_work(SIZE, ids, [1] * 9).tokens == sum(counted)


@pytest.mark.parametrize(("all_scored", "scored"), [(True, (4, 4)), (False, (1, 2))])
def test_whole_work_runs_every_prompt_and_what_it_decodes(
    all_scored: bool, scored: tuple[int, int]
) -> None:
    found = reference.whole_work(SIZE, [[1, 2, 3, 4], [1, 2, 3]], [1, 2], all_scored=all_scored)
    assert found == (8, one_by_one(0, 4, scored[0]) + one_by_one(0, 4, scored[1]))


def test_a_batch_size_is_tried_on_questions_of_middle_length() -> None:
    lengths = [90, 10, 50, 20, 80, 40, 60, 30, 70, 100, 110, 120]
    chosen = [lengths[index] for index in reference.tried_on(lengths, 4)]
    assert chosen == [30, 40, 50, 60, 70, 80, 90, 100]
    assert len(reference.tried_on(lengths, 32)) == 12


def test_the_fastest_batch_size_is_chosen_among_those_that_fit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=2**20))
    rates = {1: 10.0, 2: 30.0, 4: 40.0}

    def fastest(sizes: list[int], row: int) -> bench_eval.Json:
        return reference.fastest(sizes, [5] * 20, row, lambda _, size: rates[size])

    assert fastest([1, 2, 4, 64], 0) == {
        "fastest": 4,
        "tokens_per_s": rates,  # 64 questions are more than there are
        "too_large_for_memory": [],
    }
    assert fastest([1, 2, 4], 2**18) == {
        "fastest": 2,
        "tokens_per_s": {1: 10.0, 2: 30.0},
        "too_large_for_memory": [4],
    }
    assert fastest([2], 0)["tokens_per_s"] == {}  # there is nothing to try
    with pytest.raises(SystemExit, match="fits into memory"):
        fastest([1, 2], 2**20)


def test_prompts_are_those_of_the_task(embedded: EmbeddedData) -> None:
    given = embedded.questions()
    first, *shots = [replace(q, subject="virology") for q in given.questions[:3]]
    data = replace(given, questions=(first,), examples={"virology": tuple(shots)})
    assert reference.prompts(data, [first], 1) == [prompt(first, shots[:1])]


def test_generate_has_the_prompts_of_direct() -> None:
    direct, generate = (reference.definition(mode, "virology") for mode in reference.FOLDERS)
    for key in ("doc_to_text", "description", "fewshot_split", "fewshot_config"):
        assert direct[key] == generate[key]
    assert generate["output_type"] == "generate_until"


def test_differing_predictions_are_listed_and_ties_counted() -> None:
    ours = [direct_sample("q0", [-1.0, -2.0, -3.0, -4.0]), direct_sample("q1", [-3, -1.1, -1, -4])]
    theirs = {"q0": [-1.0, -2.0, -3.0, -4.5], "q1": [-3.0, -1.0, -1.0, -4.0]}
    found = reference.compare_direct(ours, theirs, ours)
    assert (found["same_predictions"], found["different_predictions"]) == (1, 1)
    assert found["different_and_tied_in_lm_eval"] == 1
    assert found["ties"] == {"quant_harness": 0, "lm_eval": 1}
    assert found["predictions_of_the_float32_model"] == {"quant_harness": 2, "lm_eval": 1}
    (row,) = found["different"]
    assert (row["id"], row["quant_harness"], row["lm_eval"]) == ("q1", "C", "B")
    assert row["gap_nat"] == pytest.approx(0.1)
    assert found["log_prob_difference_nat"]["largest"] == 0.5


@pytest.mark.parametrize(
    ("ours", "theirs", "same"),
    [
        (" A", " A", True),
        (" A", "A ", True),
        (" A", " A b", False),
        ("a b c d e", "a b c d e f g", True),  # ours ends after five tokens
        ("a b c d e", "a b c d f", False),
        ("", "A", False),
    ],
)
def test_texts_are_the_same_up_to_where_ours_ends(ours: str, theirs: str, *, same: bool) -> None:
    assert reference.same_text(ours, theirs, lambda text: len(text.split())) is same


def test_generated_texts_and_their_scores_are_compared() -> None:
    ours = [
        SampleScore(id="q0", cluster="s", scores={"correct": 1.0}, answer=" A"),
        SampleScore(id="q1", cluster="s", scores={"correct": 0.0}, answer=" B"),
    ]
    theirs = reference.Answers(
        log_probs={},
        texts={"q0": " A", "q1": " C"},
        correct={"q0": True, "q1": True},
        seconds=1.0,
        setup_seconds=0.0,
    )
    found = reference.compare_generate(ours, theirs, len)
    assert (found["same_texts"], found["same_correctness"]) == (1, 1)
    assert [row["id"] for row in found["different"]] == ["q1"]


def test_the_first_questions_of_each_subject_are_chosen(embedded: EmbeddedData) -> None:
    data = embedded.questions()
    subject = data.subjects[-1]
    of_subject = [q.id for q in data.questions if q.subject == subject]
    assert [q.id for q in bench_eval.choose(data, [subject], 2)] == of_subject[:2]
    with pytest.raises(SystemExit, match="astrology"):
        bench_eval.choose(data, ["astrology"], 2)


def part(speedup: float, mfu: float) -> bench_eval.Json:
    return {
        "speedup": speedup,
        "quant_harness": {"mfu": {"of_bfloat16_peak": mfu}},
        "questions": 3,
        "agreement": {"same_predictions": 2},
    }


def test_targets_are_met_or_missed() -> None:
    rows = bench_eval.targets("bfloat16", {"direct": part(8.0, 0.5), "perplexity": part(1.5, 0.4)})
    assert [(row["at_least"], row["met"]) for row in rows] == [
        (8.0, True),
        (0.45, True),
        (1.6, False),
        (0.45, False),
    ]
    (row,) = bench_eval.targets("float32", {"direct": part(1.0, 0.0), "generate": part(1.0, 0.0)})
    assert (row["at_least"], row["measured"], row["met"]) == (3, 2, False)


def test_a_file_keeps_its_parts_and_refuses_other_settings(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    settings = {"dtype": "bfloat16"}
    first = bench_eval.merged(file, settings, {"direct": part(9.0, 0.5)})
    file.write_text(json.dumps(first))
    both = bench_eval.merged(file, settings, {"perplexity": part(2.0, 0.5)})
    assert list(both["parts"]) == ["direct", "perplexity"]
    assert len(both["targets"]) == 4
    with pytest.raises(SystemExit, match="same settings"):
        bench_eval.merged(file, {"dtype": "float32"}, {})
