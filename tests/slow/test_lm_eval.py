"""Real questions, the real model in float32, asked by lm-eval's own task definitions and by `harness`."""

import sys

import pytest
import torch
from repository import ROOT

from harness.data.hub import HubData
from harness.engines.local.engine import LocalEngine
from harness.models.loaded import LoadedModel
from harness.models.sources.embedded import EmbeddedModel

sys.path.append(str(ROOT / "scripts"))

import bench_eval
import bench_reference as reference

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings(
        "ignore"
    ),  # lm-eval's and its libraries', which are not ours to mend
    pytest.mark.usefixtures("hub_root"),
]


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return EmbeddedModel(dtype="float32").load(torch.device("cpu"))


def test_direct_predictions_are_lm_evals_in_every_fifth_subject(loaded: LoadedModel) -> None:
    data = HubData().questions()
    questions = bench_eval.choose(data, data.subjects[::5], 2)
    ours = bench_eval.ask_harness(loaded, "direct", "native", questions).samples
    theirs = reference.ask(loaded, data, questions, "direct", batch_size=4, shots=5)
    found = reference.compare_direct(ours, theirs.log_probs, [])
    assert found["different"] == []
    assert found["same_predictions"] == len(questions) == 24
    # Float32 sums in another order: thirty layers leave about 1e-5.
    assert found["log_prob_difference_nat"]["largest"] < 1e-3
    assert {s.id: bool(s.scores["correct"]) for s in ours} == theirs.correct


def test_generated_texts_and_scores_are_lm_evals(loaded: LoadedModel) -> None:
    data = HubData().questions()
    questions = bench_eval.choose(data, ["virology", "philosophy", "college_physics"], 3)
    ours = bench_eval.ask_harness(loaded, "generate", "native", questions).samples
    theirs = reference.ask(loaded, data, questions, "generate", batch_size=4, shots=5)
    found = reference.compare_generate(
        ours, theirs, lambda text: len(loaded.tokenizer(text, verbose=False)["input_ids"])
    )
    assert found == {"same_texts": 9, "same_correctness": 9, "different": []}
    assert len({sample.answer for sample in ours}) > 1


def test_the_script_counts_the_tokens_that_the_task_asks(loaded: LoadedModel) -> None:
    data = HubData().questions()
    questions = bench_eval.choose(data, ["virology"], 2)
    texts = reference.prompts(data, questions, 5)
    counted = sum(len(ids) for ids in loaded.tokenizer(texts, verbose=False)["input_ids"])
    task = bench_eval.MMLU(data=bench_eval.Chosen(asked=questions), answer=bench_eval.Direct())
    assert counted == task.run(LocalEngine(loaded)).info.data["num_prompt_tokens"]
