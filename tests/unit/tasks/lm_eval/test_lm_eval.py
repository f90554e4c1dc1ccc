"""lm-eval on the model in memory against lm-eval by itself and plain forward passes."""

import logging
import math
import os
import random
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lm_eval_tasks import ROWS, TASKS, write_tasks
from scipy import stats as scipy_stats
from tokenizers.processors import TemplateProcessing
from torch.nn import functional as F

from harness.backends.layer import LayerRule
from harness.engines.local.engine import LocalEngine
from harness.errors import ConfigError, DataError, InvalidResult
from harness.formats.integer import Integer
from harness.models.loaded import LoadedModel
from harness.models.sources.tiny import TinyModel
from harness.quant.granularity import Granularity
from harness.quant.schemes.block_scaled import BlockScaled
from harness.recipe import QuantRecipe, audit_after, quantize
from harness.results.record import Metric, Unit
from harness.tasks.base import TaskResult
from harness.tasks.lm_eval import loading
from harness.tasks.lm_eval.lm_eval import LMEval

Tasks = Callable[..., LMEval]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Task files that read local rows."""
    root = tmp_path_factory.mktemp("tasks")
    write_tasks(root)
    return root


@pytest.fixture
def tasks(folder: Path) -> Tasks:
    """Make a task of some names."""

    def make(*names: str, **options: Any) -> LMEval:
        return LMEval(tasks=names, include_path=str(folder), **options)

    return make


def metric(result: TaskResult, name: str) -> Metric:
    return next(each for each in result.metrics if each.name == name)


def log_probs(loaded: LoadedModel, ids: list[int]) -> torch.Tensor:
    """Return ln p of `ids[1:]` by one plain forward pass."""
    with torch.inference_mode():
        logits = loaded.module(torch.tensor([ids])).logits[0, :-1].float()
    return F.log_softmax(logits, -1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0]


def encode(loaded: LoadedModel, text: str) -> list[int]:
    return loaded.tokenizer(text)["input_ids"]


def plain_lm_eval(loaded: LoadedModel, task: LMEval, **options: Any) -> dict[str, Any]:
    """Return what lm-eval gives when it is called as its documentation says."""
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    model = HFLM(pretrained=loaded.module, tokenizer=loaded.tokenizer, max_length=64, batch_size=3)
    model.logits_cache = False
    manager = TaskManager(include_path=task.include_path, include_defaults=False)
    return simple_evaluate(
        model, tasks=[*task.tasks], task_manager=manager, bootstrap_iters=1000, **options
    )


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep lm-eval from copying this process, and from listing the machine's packages."""
    monkeypatch.setenv("DISABLE_MULTIPROC", "1")
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)


@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize("name", [*TASKS, "both"])
def test_numbers_are_those_of_lm_eval_by_itself(tasks: Tasks, name: str) -> None:
    task = tasks(name, max_length=64)
    found = task.run(LocalEngine(TinyModel().load(torch.device("cpu"))))
    reference = plain_lm_eval(TinyModel().load(torch.device("cpu")), task)
    expected = {
        f"{owner}/{key.removesuffix(',none').replace(',', '/')}": (value, values)
        for owner, values in reference["results"].items()
        for key, value in values.items()
        if "," in key and "_stderr," not in key
    }
    assert {each.name for each in found.metrics} == expected.keys()
    for each in found.metrics:
        # Batches of another size add the same float32 numbers in another order.
        assert each.value == pytest.approx(expected[each.name][0], rel=1e-5), each.name
        _, kind, *label = each.name.split("/")
        error = expected[each.name][1][f"{kind}_stderr,{''.join(label) or 'none'}"]
        if each.ci95 is not None:
            spread = scipy_stats.t.ppf(0.975, each.n - 1) * error
            low, high = max(each.value - spread, 0), each.value + spread
            assert each.ci95 == pytest.approx((low, high), rel=1e-3)
        else:
            assert error in ("N/A", 0.0)
            assert each.note
    answers = [item["filtered_resps"] for items in reference["samples"].values() for item in items]
    if name == "writing":
        assert [item.answer for item in found.samples] == [reply[0] for reply in answers[:12]]


def test_choices_are_scored_by_their_log_probability(tiny: LoadedModel, tasks: Tasks) -> None:
    result = tasks("choices", shots=2, limit=5).run(LocalEngine(tiny))
    shots = "".join(
        f"Question: {row['q']}\nAnswer: {row['choices'][row['gold']]}\n\n" for row in ROWS[:2]
    )
    hits, hits_by_length = [], []
    for index, (sample, row) in enumerate(zip(result.samples, ROWS, strict=False)):
        context = encode(tiny, f"{shots}Question: {row['q']}\nAnswer:")
        totals = []
        for choice in row["choices"]:
            end = encode(tiny, f" {choice}")
            totals.append(float(log_probs(tiny, context + end)[-len(end) :].sum()))
        assert sample.id == f"choices/{index}"
        assert sample.cluster == "choices"
        expected = {
            f"log_prob_{i}": pytest.approx(total, abs=1e-4) for i, total in enumerate(totals)
        }
        by_length = [t / len(c) for t, c in zip(totals, row["choices"], strict=True)]
        hits.append(totals.index(max(totals)) == row["gold"])
        hits_by_length.append(by_length.index(max(by_length)) == row["gold"])
        scores = {"acc": hits[-1], "acc_norm": hits_by_length[-1]}
        assert sample.scores == expected | scores
        assert sample.answer == str(totals.index(max(totals)))
    assert [m.name for m in result.metrics] == ["choices/acc", "choices/acc_norm"]
    for each, outcomes in zip(result.metrics, (hits, hits_by_length), strict=True):
        assert each.value == np.mean(outcomes)
        assert (each.unit, each.n, each.n_of) == (Unit.FRACTION, 5, "document")
        assert each.higher_is_better


def test_rolling_text_is_scored_in_disjoint_windows(tiny: LoadedModel, tasks: Tasks) -> None:
    length = 32
    result = tasks("pages", max_length=length).run(LocalEngine(tiny))
    total, num_words, num_bytes = 0.0, 0, 0
    for sample, row in zip(result.samples, ROWS, strict=True):
        ids = [tiny.tokenizer.eos_token_id, *encode(tiny, row["page"])]
        nll = 0.0
        for start in range(1, len(ids), length):
            targets = ids[start : start + length]
            # One token before a whole window; the last is filled up with what came before it.
            before = max(1, length + 1 - len(targets)) if start > 1 else 1
            window = ids[max(0, start - before) : start] + targets
            nll -= float(log_probs(tiny, window)[-len(targets) :].sum())
        words, size = len(re.split(r"\s+", row["page"])), len(row["page"].encode())
        assert sample.scores == {
            "nll": pytest.approx(nll, rel=1e-6),
            "num_words": words,
            "num_bytes": size,
        }
        assert sample.answer is None
        assert sample.cluster == sample.id
        total, num_words, num_bytes = total + nll, num_words + words, num_bytes + size
    values = {each.name: each.value for each in result.metrics}
    assert values == {
        "pages/word_perplexity": pytest.approx(math.exp(total / num_words), rel=1e-5),
        "pages/byte_perplexity": pytest.approx(math.exp(total / num_bytes), rel=1e-6),
        "pages/bits_per_byte": pytest.approx(total / num_bytes / math.log(2), rel=1e-6),
    }
    assert metric(result, "pages/bits_per_byte").unit is Unit.BIT_PER_BYTE
    assert not any(each.higher_is_better for each in result.metrics)
    assert all("no standard error" in (each.note or "") for each in result.metrics)


def test_text_is_generated_greedily(tiny: LoadedModel, tasks: Tasks) -> None:
    result = tasks("writing", limit=4).run(LocalEngine(tiny))
    for sample, row in zip(result.samples, ROWS, strict=False):
        ids = encode(tiny, row["q"])
        for _ in range(6):
            with torch.inference_mode():
                ids.append(int(tiny.module(torch.tensor([ids])).logits[0, -1].argmax()))
        text = tiny.tokenizer.decode(ids[-6:], skip_special_tokens=True).split("!")[0]
        assert sample.answer == text
        digit = re.search("[0-9]", text)
        assert sample.scores == {
            "exact_match": text == row["choices"][0],
            "exact_match/digit": bool(digit) and digit[0] == row["choices"][0],
        }
    assert [each.name for each in result.metrics] == [
        "writing/exact_match",
        "writing/exact_match/digit",
    ]


def test_requested_group_comes_first_and_counts_every_document(
    tiny: LoadedModel, tasks: Tasks
) -> None:
    result = tasks("both", limit=6).run(LocalEngine(tiny))
    outcomes = [sample.scores["acc"] for sample in result.samples]
    first = result.metrics[0]
    assert first.name == "both/acc"
    assert first.value == pytest.approx(np.mean(outcomes))
    assert first.n == len(outcomes) == 12
    assert first.higher_is_better
    assert {sample.cluster for sample in result.samples} == {"choices", "fixed"}


@pytest.mark.usefixtures("_quick")
def test_logits_and_softmax_are_float32_in_a_bfloat16_model(tasks: Tasks) -> None:
    loaded = TinyModel(dtype="bfloat16").load(torch.device("cpu"))
    task = tasks("choices", limit=4)
    found = [sample.scores["log_prob_0"] for sample in task.run(LocalEngine(loaded)).samples]
    reference = plain_lm_eval(loaded, task, limit=4)["samples"]["choices"]
    rounded = [item["filtered_resps"][0][0] for item in reference]
    for value, row in zip(found, ROWS, strict=False):
        context = encode(loaded, f"Question: {row['q']}\nAnswer:")
        end = encode(loaded, f" {row['choices'][0]}")
        with torch.inference_mode():
            hidden = loaded.module.model(torch.tensor([context + end])).last_hidden_state[0, :-1]
            logits = hidden.float() @ loaded.module.lm_head.weight.float().T
        ids = torch.tensor((context + end)[1:])
        exact = F.log_softmax(logits, -1).gather(1, ids[:, None])[-len(end) :].sum()
        # Hidden states are bfloat16: other batches move sums over a whole answer by tenths.
        assert value == pytest.approx(float(exact), abs=0.2)
        assert value != float(torch.tensor(value).bfloat16())
    # As it comes, lm-eval sums in bfloat16, whose steps near 64 are 0.25 and more.
    assert all(value == float(torch.tensor(value).bfloat16()) for value in rounded)
    assert max(abs(a - b) for a, b in zip(found, rounded, strict=True)) > 0.02


def with_head() -> QuantRecipe:
    """Return INT3 a row over every linear layer and the head, which is tied."""
    fmt = BlockScaled(element=Integer(bits=3), granularity=Granularity(block=(1, -1)))
    rules = {"all": LayerRule(match="*", weight=fmt)}
    return QuantRecipe(name="with_head", rules=rules, skip=("embed_tokens",))


def test_quantized_tied_head_survives(tiny: LoadedModel, tasks: Tasks) -> None:
    quantize(tiny, with_head())
    head = tiny.module.lm_head.weight
    result = tasks("choices", limit=3).run(LocalEngine(tiny))
    audit_after(tiny)
    assert tiny.module.lm_head.weight is head is not tiny.module.model.embed_tokens.weight
    context = encode(tiny, f"Question: {ROWS[0]['q']}\nAnswer:")
    end = encode(tiny, f" {ROWS[0]['choices'][0]}")
    expected = float(log_probs(tiny, context + end)[-len(end) :].sum())
    assert result.samples[0].scores["log_prob_0"] == pytest.approx(expected, abs=1e-4)


def test_another_recipe_gives_other_numbers_and_the_float_model_its_own_again(
    tiny: LoadedModel, tasks: Tasks
) -> None:
    task = tasks("choices", "pages", limit=4)
    first = task.run(LocalEngine(tiny))
    quantize(tiny, with_head())
    second = task.run(LocalEngine(tiny))
    tiny.restore()
    assert task.run(LocalEngine(tiny)) == first
    assert second.info == first.info
    for before, after in zip(first.samples, second.samples, strict=True):
        assert before.id == after.id
        key = "nll" if "nll" in before.scores else "log_prob_0"
        assert before.scores[key] != after.scores[key]


@pytest.mark.parametrize("name", ["choices", "pages", "writing"])
def test_nan_is_an_invalid_result(tiny: LoadedModel, tasks: Tasks, name: str) -> None:
    norm = tiny.module.model.norm
    tiny.swap_parameter(norm, "weight", torch.full_like(norm.weight, torch.nan))
    with pytest.raises(InvalidResult, match=r"every (log-probability|logit) must be"):
        tasks(name, limit=2).run(LocalEngine(tiny))


def test_perplexity_beyond_all_numbers_is_an_invalid_result(
    tiny: LoadedModel, tasks: Tasks
) -> None:
    norm = tiny.module.model.norm
    tiny.swap_parameter(norm, "weight", norm.weight.detach() * 1e4)
    with pytest.raises(InvalidResult, match="every perplexity must be a finite number"):
        tasks("pages", limit=2).run(LocalEngine(tiny))


def test_requests_of_one_text_are_scored_each_at_its_own_end(
    tiny: LoadedModel, tasks: Tasks, folder: Path
) -> None:
    def score(**options: Any) -> list[float]:
        result = tasks("split", "whole", **options).run(LocalEngine(tiny))
        return [sample.scores["log_prob_0"] for sample in result.samples]

    text = "one two three"
    for name, end in (("split", "two three"), ("whole", "three")):
        start = text.removesuffix(f" {end}")
        own = [
            f'doc_to_text: "{start}"',
            f'doc_to_target: " {end}"',
            "metric_list: [{metric: acc}]",
        ]
        file = (folder / "cloze.yaml").read_text(encoding="utf-8").replace("cloze", name)
        kept = [line for line in file.splitlines() if "doc_to" not in line and "metric" not in line]
        (folder / f"{name}.yaml").write_text("\n".join(kept + own), encoding="utf-8")
    found = score(limit=1)
    expected = log_probs(tiny, encode(tiny, text))
    ends = [float(expected[-len(end) :].sum()) for end in (" two three", " three")]
    assert found == pytest.approx(ends, abs=1e-4)


def test_prompts_that_were_cut_are_counted(tiny: LoadedModel, tasks: Tasks) -> None:
    assert tasks("choices", limit=3).run(LocalEngine(tiny)).warnings == ()
    for name, count in (("choices", 9), ("writing", 3)):
        result = tasks(name, limit=3, max_length=20).run(LocalEngine(tiny))
        assert result.warnings == (
            f"lm-eval: {count} prompts lost their first tokens, to fit into 20",
        )


def test_shots_that_a_task_does_not_take_are_told(tiny: LoadedModel, tasks: Tasks) -> None:
    result = tasks("choices", "fixed", shots=1, limit=2).run(LocalEngine(tiny))
    assert result.info.data["num_shots"] == {"choices": 1, "fixed": 0}
    assert result.warnings == ("task.shots=1 does not apply to fixed, whose file fixes 0",)


def test_facts_change_with_what_is_asked(tasks: Tasks, folder: Path) -> None:
    facts = tasks("choices", shots=1).data_facts()
    assert facts == tasks("choices", shots=1).data_facts()
    assert facts["versions"] == {"choices": 3}
    assert facts["num_documents"] == {"choices": 12}
    fewer = tasks("choices", shots=1, limit=3).data_facts()
    assert fewer["documents_sha256"] != facts["documents_sha256"]
    bare = tasks("choices").data_facts()
    assert bare["documents_sha256"] == facts["documents_sha256"]
    assert bare["examples_sha256"] != facts["examples_sha256"]
    file = folder / "choices.yaml"
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace("Question:", "Q:"), encoding="utf-8")
    try:
        changed = tasks("choices", shots=1).data_facts()
    finally:
        file.write_text(text, encoding="utf-8")
    differing = {key for key in facts if facts[key] != changed[key]}
    assert differing == {"tasks_sha256"}


def test_facts_change_with_what_functions_of_a_task_call(tasks: Tasks, folder: Path) -> None:
    without = tasks("choices").data_facts()
    file, code = folder / "choices.yaml", folder / "own.py"
    text = file.read_text(encoding="utf-8")
    calls = re.sub(r"doc_to_text: .*", "doc_to_text: !function own.asked", text)
    found = []
    try:
        file.write_text(calls, encoding="utf-8")
        for lead in ("Q:", "Q:", "A question:"):
            code.write_text(
                "def asked(doc):\n    return led(doc)\n\n\n"
                f"def led(doc):\n    return '{lead}' + doc['q']\n"
            )
            found.append(tasks("choices").data_facts())
    finally:
        file.write_text(text, encoding="utf-8")
        code.unlink()
    first, again, changed = found
    assert first == again
    assert {key for key in first if first[key] != changed[key]} == {"code_sha256"}
    # Folders without Python have the facts that records on file have.
    assert tasks("choices").data_facts() == without
    assert "code_sha256" not in without


def test_examples_are_drawn_by_the_seed(tiny: LoadedModel, tasks: Tasks) -> None:
    first, again, other = (
        tasks("drawn", limit=3, seed=seed).run(LocalEngine(tiny)).info.data for seed in (1, 1, 2)
    )
    assert first == again
    assert {key for key in first if first[key] != other[key]} == {"prompts_sha256"}


def test_protocol_says_everything(tiny: LoadedModel, tasks: Tasks) -> None:
    info = tasks("choices", shots=1, limit=2, max_length=512).run(LocalEngine(tiny)).info
    assert info.protocol == (
        "lm-eval 0.4.13|tasks=choices|shots=1|documents=first-2|max_length=512|bos=none"
        "|logits=fp32|softmax=fp64"
    )
    assert len(info.data["prompts_sha256"]) == 64
    assert tasks("choices", seed=5).seeds == {"task.seed": 5}


def test_bos_is_before_prompts_and_never_in_a_text(tasks: Tasks) -> None:
    from tokenizers.processors import TemplateProcessing

    loaded = TinyModel().load(torch.device("cpu"))
    tokenizer = loaded.tokenizer
    tokenizer.bos_token = "Z"  # noqa: S105 - a token of text
    bos = tokenizer.bos_token_id
    tokenizer._tokenizer.post_processor = TemplateProcessing(
        single="Z $0", special_tokens=[("Z", bos)]
    )
    assert encode(loaded, "a")[0] == bos
    result = tasks("choices", "pages", limit=1).run(LocalEngine(loaded))
    assert "|bos=prompts|" in result.info.protocol
    by_id = {sample.id: sample for sample in result.samples}
    prompt = encode(loaded, f"Question: {ROWS[0]['q']}\nAnswer: {ROWS[0]['choices'][1]}")
    assert prompt.count(bos) == 1
    expected = float(log_probs(loaded, prompt)[-len(" two") :].sum())
    assert by_id["choices/0"].scores["log_prob_1"] == pytest.approx(expected, abs=1e-4)
    page = encode(loaded, ROWS[0]["page"])
    assert page.count(bos) == 1
    assert by_id["pages/0"].scores["nll"] == pytest.approx(
        -float(log_probs(loaded, page).sum()), rel=1e-6
    )


def test_model_tokenizer_and_process_are_left_as_they_were(
    tasks: Tasks,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logging.getLogger("lm_eval"), "propagate", True)
    monkeypatch.setattr("multiprocessing.Pool", None)  # a copy of the process holds the model again

    tiny = TinyModel().load(torch.device("cpu"))

    def states() -> Iterator[Any]:
        yield tiny.tokenizer.pad_token
        yield tiny.module.config.to_dict()
        yield random.getstate()
        yield np.random.get_state()[1].tolist()
        yield torch.random.get_rng_state().tolist()
        yield dict(os.environ)
        yield logging.getLogger("lm_eval").__dict__ | {"_cache": None}

    before = [*states()]
    tasks("choices", "pages", "cloze", "writing", limit=3).run(LocalEngine(tiny))
    assert [*states()] == before
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "")


def test_unknown_task_is_answered_with_close_names(tasks: Tasks, monkeypatch: Any) -> None:
    from lm_eval.tasks import TaskManager

    # lm-eval's own 14,000 files take too long to read here.
    only = lambda path: TaskManager(include_path=path, include_defaults=False)  # noqa: E731
    monkeypatch.setattr(loading, "_all_tasks", only)
    with pytest.raises(ConfigError, match="got choice; did you mean choices") as error:
        tasks("choice").data_facts()
    assert error.value.__cause__ is None


@pytest.mark.parametrize(
    ("names", "members", "reads_all"),
    [
        (["choices"], "[fixed]", False),
        (["both"], "[{task: fixed}]", False),
        (["more"], "[{group: inner, task: [fixed, {task: cloze}, {group: both}]}]", False),
        (["more"], "[{group: inner, task: [{group: deeper, task: [fixed, arc_easy]}]}]", True),
        (["choices"], "[arc_easy]", True),
        (["arc_easy"], "[fixed]", True),
    ],
)
def test_own_folder_is_enough_if_all_that_is_asked_for_lies_there(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    names: list[str],
    members: str,
    reads_all: bool,
) -> None:
    for file in folder.glob("*.yaml"):
        shutil.copy(file, tmp_path)
    (tmp_path / "more.yaml").write_text(f"group: more\ntask: {members}\n", encoding="utf-8")
    asked = []
    monkeypatch.setattr(loading, "_all_tasks", asked.append)
    loading._manager(tuple(names), str(tmp_path))
    assert asked == [str(tmp_path)] * reads_all


def test_task_that_stands_in_a_requested_group_too_is_refused(tasks: Tasks) -> None:
    with pytest.raises(ConfigError, match="got choices twice"):
        tasks("choices", "both").data_facts()


def test_data_that_cannot_be_had_is_one_clear_error(folder: Path, tmp_path: Path) -> None:
    text = (folder / "fixed.yaml").read_text(encoding="utf-8")
    text = text.replace("rows.jsonl", "absent.jsonl")
    (tmp_path / "gone.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=r"task fixed must load .* got .*absent.jsonl.*connect"):
        LMEval(tasks=("fixed",), include_path=str(tmp_path)).data_facts()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("test_split: test", "test_splits: test", "TypeError: .*argument 'test_splits'"),
        ("{{q}}", "{{q", "TemplateSyntaxError: unexpected end of template"),
        ("{{q}}", "{{nothing.in}}", "UndefinedError: 'nothing' is undefined"),
        ("multiple_choice", "choice", "ValueError: Got invalid output_type 'choice'"),
        ("doc_to_target: gold", "doc_to_target: 7", "IndexError: list index out of range"),
    ],
)
def test_mistake_in_a_task_file_is_one_clear_error(
    folder: Path, tmp_path: Path, old: str, new: str, message: str
) -> None:
    text = (folder / "fixed.yaml").read_text(encoding="utf-8")
    assert old in text
    (tmp_path / "fixed.yaml").write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(DataError, match=rf"task fixed must load .* got {message}.*correct the"):
        LMEval(tasks=("fixed",), include_path=str(tmp_path)).data_facts()


def test_more_examples_than_there_are_is_a_configuration_error(
    tiny: LoadedModel, tasks: Tasks
) -> None:
    with pytest.raises(ConfigError, match=r"exceeds the 30 that are available.*task.shots"):
        tasks("choices", shots=50, limit=1).run(LocalEngine(tiny))


def test_length_beyond_the_model_is_a_configuration_error(tiny: LoadedModel, tasks: Tasks) -> None:
    with pytest.raises(ConfigError, match=r"task.max_length must be at most the 8192 tokens"):
        tasks("choices", max_length=8193).run(LocalEngine(tiny))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": ()}, "tasks must name at least one"),
        ({"tasks": ("a", "a")}, "each once"),
        ({"shots": -1}, "shots must be >= 0"),
        ({"limit": 0}, "limit must be >= 1"),
        ({"batch_size": 0}, "batch_size must be >= 1"),
        ({"max_length": 1}, "max_length must be >= 2"),
        ({"include_path": "/absent"}, "include_path must be a folder"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LMEval(**{"tasks": ("a",)} | options)


@pytest.mark.parametrize("name", ["choices", "cloze", "pages", "writing"])
def test_tokens_that_a_tokenizer_appends_move_no_number(tasks: Tasks, name: str) -> None:
    task = tasks(name, max_length=64)
    plain, appending = (TinyModel().load(torch.device("cpu")) for _ in range(2))
    appending.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="$A <eos> !", special_tokens=[("<eos>", 260), ("!", 0)]
    )
    found, expected = task.run(LocalEngine(appending)), task.run(LocalEngine(plain))
    assert found.metrics == expected.metrics
    assert found.samples == expected.samples
    # The model's own tokenizer stays what its folder says.
    assert encode(appending, "a") == [64, 260, 0]


@pytest.mark.parametrize("name", ["choices", "pages", "writing"])
def test_token_without_a_row_is_named(tasks: Tasks, name: str) -> None:
    loaded = TinyModel().load(torch.device("cpu"))
    loaded.tokenizer.add_tokens(["<no_row>", "er"] if name == "pages" else ["<no_row>", "hat"])
    with pytest.raises(DataError, match=r"with id 262 where there are 261 rows"):
        tasks(name, max_length=64).run(LocalEngine(loaded))


def test_prefix_without_a_row_is_named_where_it_is_read(tasks: Tasks) -> None:
    """lm-eval puts BOS before a rolling text; other tasks do not read it."""
    loaded = TinyModel().load(torch.device("cpu"))
    loaded.tokenizer.add_special_tokens({"bos_token": "<bos>"})
    with pytest.raises(DataError, match=r"got '<bos>' with id 261 where there are 261 rows"):
        tasks("pages", max_length=64).run(LocalEngine(loaded))
    assert tasks("choices", max_length=64).run(LocalEngine(loaded)).metrics
