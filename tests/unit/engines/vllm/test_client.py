"""vLLM's tasks on a stand-in of its documented interface that decodes with the tiny model.

The stand-in knows nothing of the engine's code: it loads the folder with transformers, decodes one prompt after another by plain forward
passes without a cache, and stamps requests by a clock of its own.
"""

import functools
import sys
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from harness.engines.vllm.client import UNVERIFIED, VllmEngine
from hydra import compose, initialize_config_dir
from transformers import AutoModelForCausalLM

from harness import config
from harness.config import CONF
from harness.errors import ConfigError, DataError, InvalidResult, ModelError
from harness.models import cache
from harness.models.checkpoints import folder as checkpoint
from harness.models.loaded import LoadedModel
from harness.models.sources.pretrained import LocalModel
from harness.report import __main__ as report
from harness.results.record import Metric, RunRecord, Status
from harness.results.store import read, read_samples
from harness.runner.run import RunSpec, run
from harness.tasks.base import hash_token_ids
from harness.tasks.mmlu.generate import Generate
from harness.tasks.mmlu.mmlu import MMLU
from harness.tasks.mmlu.vllm import VllmMMLU
from harness.tasks.throughput import prompts as throughput_prompts
from harness.tasks.throughput.subject import Size
from harness.tasks.throughput.vllm import VllmThroughput

CPU = torch.device("cpu")
VERSION = "0.0.stand-in"
QUEUED_S, PREFILL_S, STEP_S, LATENCY_S = 0.5, 0.25, 0.01, 0.4
"""What the clock of the stand-in says; `LATENCY_S` counts from arrival, on another clock."""


@dataclass(kw_only=True)
class SamplingParams:
    """The arguments of `vllm.SamplingParams` that may be given, with its defaults."""

    temperature: float = 1.0
    max_tokens: int = 16
    min_tokens: int = 0
    ignore_eos: bool = False
    detokenize: bool = True
    logprobs: int | None = None
    prompt_logprobs: int | None = None


@dataclass
class StandIn:
    """What the stand-in is told to do wrong, and what it was asked."""

    stamped: bool = True
    has_latency: bool = True
    spread_s: float = 0.0
    """Each request of a batch is prefilled so much later than the one before."""
    truncate_to: int | None = None
    stop_early: bool = False
    lose_last: bool = False
    started: list[dict[str, Any]] = field(default_factory=list)
    sampled: list[SamplingParams] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    """Prompts of each call."""

    def llm(  # the documented arguments that may be given, and no others
        self,
        model: str,
        *,
        dtype: str = "auto",
        seed: int = 0,
        max_model_len: int | None = None,
        gpu_memory_utilization: float = 0.9,
        enforce_eager: bool = False,
        trust_remote_code: bool = False,
        disable_log_stats: bool = True,
        enable_prefix_caching: bool = True,
        max_num_seqs: int = 256,
        max_num_batched_tokens: int = 8192,
    ) -> "LLM":
        self.started.append({k: v for k, v in locals().items() if k != "self"})
        return LLM(self, greedy_of(model, dtype), stamped=self.stamped and not disable_log_stats)


class Greedy:
    """A model of a folder, decoded by whole forward passes; what it said once it remembers."""

    def __init__(self, folder: str, dtype: str) -> None:
        module = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
        self.eos, self.module, self.known = module.config.eos_token_id, module, {}

    def continuation(self, ids: tuple[int, ...], count: int) -> tuple[int, ...]:
        if (ids, count) not in self.known:
            tokens: tuple[int, ...] = ()
            for _ in range(count):
                with torch.inference_mode():
                    logits = self.module(torch.tensor([ids + tokens])).logits[0, -1]
                tokens += (int(logits.argmax()),)
            self.known[ids, count] = tokens
        return self.known[ids, count]


greedy_of = functools.cache(Greedy)


class LLM:
    def __init__(self, stand_in: StandIn, greedy: "Greedy", *, stamped: bool) -> None:
        self.stand_in, self.greedy, self.stamped = stand_in, greedy, stamped

    def generate(
        self,
        prompts: list[dict[str, list[int]]],
        sampling_params: SamplingParams,
        *,
        use_tqdm: bool = True,
    ) -> list[SimpleNamespace]:
        self.stand_in.sampled.append(sampling_params)
        self.stand_in.batches.append(len(prompts))
        outputs = [
            self._output(index, prompt["prompt_token_ids"], sampling_params)
            for index, prompt in enumerate(prompts)
        ]
        return outputs[:-1] if self.stand_in.lose_last else outputs

    def _output(self, index: int, ids: list[int], sampling: SamplingParams) -> SimpleNamespace:
        assert sampling.temperature == 0
        ids = ids[-self.stand_in.truncate_to :] if self.stand_in.truncate_to else ids
        tokens, reason = self._decode(ids, sampling)
        completion = SimpleNamespace(
            index=0, text="", token_ids=tokens, logprobs=None, finish_reason=reason
        )
        return SimpleNamespace(
            request_id=str(index),
            prompt=None,
            prompt_token_ids=ids,
            outputs=[completion],
            finished=True,
            metrics=self._metrics(index, len(tokens)) if self.stamped else None,
        )

    def _decode(self, ids: list[int], sampling: SamplingParams) -> tuple[list[int], str]:
        whole = self.greedy.continuation(tuple(ids), sampling.max_tokens)
        if self.stand_in.stop_early:
            return list(whole[:1]), "stop"
        if self.greedy.eos in whole and not sampling.ignore_eos:
            return list(whole[: whole.index(self.greedy.eos) + 1]), "stop"
        return list(whole), "length"

    def _metrics(self, index: int, count: int) -> SimpleNamespace:
        """`RequestStateStats` of vLLM 0.11."""
        first = 1000.0 + QUEUED_S + PREFILL_S + index * self.stand_in.spread_s
        stamps = SimpleNamespace(
            num_generation_tokens=count,
            arrival_time=1.7e9,
            queued_ts=1000.0,
            scheduled_ts=1000.0 + QUEUED_S,
            first_token_ts=first,
            last_token_ts=first + (count - 1) * STEP_S,
        )
        if self.stand_in.has_latency:
            stamps.first_token_latency = LATENCY_S + index * self.stand_in.spread_s
        return stamps


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """Put a module `vllm` in the place of the real one."""
    found = StandIn()
    vllm, platforms = ModuleType("vllm"), ModuleType("vllm.platforms")
    vllm.__dict__.update(__version__=VERSION, LLM=found.llm, SamplingParams=SamplingParams)
    platforms.__dict__.update(current_platform=SimpleNamespace(device_type="cpu"))
    monkeypatch.setitem(sys.modules, "vllm", vllm)
    monkeypatch.setitem(sys.modules, "vllm.platforms", platforms)
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, _tiny: LoadedModel) -> Path:
    """The tiny model as a checkpoint."""
    path = tmp_path_factory.mktemp("checkpoint")
    _tiny.module.save_pretrained(path)
    _tiny.tokenizer.save_pretrained(path)
    return path


MakeSpec = Callable[..., RunSpec]


@pytest.fixture
def make_spec(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> MakeSpec:
    """Build a run of a task of vLLM; loading a model of the harness fails the test."""
    monkeypatch.setattr(cache, "load", lambda *_: pytest.fail("weights were loaded twice"))

    def make(task: str, *overrides: str) -> RunSpec:
        common = (
            f"task={task}",
            f"task.engine.path={folder}",
            "task.engine.dtype=float32",
            "model=tiny",
            "data=embedded",
            "device=cpu",
            f"results_dir={tmp_path / 'results'}",
        )
        config.register()
        with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
            composed = compose("config", overrides=[*common, *overrides])
        return RunSpec.build(config.resolve(composed))

    return make


MMLU_SMALL = ("mmlu_vllm", "task.limit=8", "task.shots=0")
SPEED_SMALL = ("throughput_vllm", "task.prompt_tokens=8", "task.new_tokens=5", "task.batch_size=3")


def measured(spec: RunSpec) -> RunRecord:
    return read(run(spec).path)


def by_name(record: RunRecord) -> dict[str, Metric]:
    return {metric.name: metric for metric in record.metrics}


# What MMLU through vLLM says


def test_answers_are_those_of_mmlu_generate_on_the_same_prompts(
    stand_in: StandIn, make_spec: MakeSpec, folder: Path
) -> None:
    spec = make_spec(*MMLU_SMALL)
    assert isinstance(spec.task, VllmMMLU)
    found = spec.task.run_on(CPU)
    plain = MMLU(data=spec.task.data, answer=Generate(), limit=8, shots=0)
    expected = plain.run(LocalModel(path=str(folder), dtype="float32").load(CPU))
    assert len(found.samples) == 8
    assert found.samples == expected.samples
    assert found.metrics == expected.metrics
    assert len({sample.answer for sample in found.samples}) > 1
    for key in ("token_ids_sha256", "questions_sha256", "examples_sha256", "num_shots"):
        assert found.info.data[key] == expected.info.data[key]
    assert found.info.protocol == f"{expected.info.protocol}|engine=vllm-{VERSION}"


def test_record_names_engine_version_and_checkpoint(
    stand_in: StandIn, make_spec: MakeSpec, folder: Path
) -> None:
    spec = make_spec(*MMLU_SMALL)
    record = measured(spec)
    assert record.status is Status.OK
    assert record.task is not None
    assert (record.task.name, record.task.needs_model) == ("mmlu_vllm", False)
    assert record.task.data["engine"] == "vllm"
    assert record.task.data["engine_version"] == VERSION
    assert record.task.data["checkpoint_fingerprint"] == checkpoint.folder_fingerprint(folder)
    assert record.config["task"]["engine"]["path"] == str(folder)
    assert UNVERIFIED in record.warnings
    [stored] = spec.store.load()[0]
    assert len(read_samples(stored)) == 8


def test_run_on_file_is_repeated_for_another_version_alone(
    stand_in: StandIn, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not run(make_spec(*MMLU_SMALL)).skipped
    assert run(make_spec(*MMLU_SMALL)).skipped
    monkeypatch.setattr(sys.modules["vllm"], "__version__", "another")
    assert not run(make_spec(*MMLU_SMALL)).skipped


def test_report_shows_what_an_engine_measured(
    stand_in: StandIn, make_spec: MakeSpec, tmp_path: Path
) -> None:
    outcome = run(make_spec(*MMLU_SMALL))
    assert outcome.headline is not None
    assert outcome.headline.value is not None
    text = report.write(outcome.path.parents[2], tmp_path / "reports", "engines").read_text()
    text = text.replace("\\", "")  # underscores are escaped in Markdown
    assert "mmlu_vllm: vllm" in text
    assert f"{100 * outcome.headline.value:.2f} %" in text
    assert outcome.path.name in text


def test_every_prompt_goes_in_at_once_and_is_decoded_greedily(
    stand_in: StandIn, make_spec: MakeSpec
) -> None:
    run(make_spec(*MMLU_SMALL, "task.engine.max_model_len=4096", "task.engine.seed=3"))
    assert stand_in.batches == [8]
    [sampling] = stand_in.sampled
    # The end token is ignored here and read by the rule; to forbid it (min_tokens) would change what is decoded.
    assert sampling == SamplingParams(
        temperature=0.0, max_tokens=5, ignore_eos=True, detokenize=False
    )
    [started] = stand_in.started
    assert (started["dtype"], started["max_model_len"], started["seed"]) == ("float32", 4096, 3)


def test_engine_is_let_go_when_the_block_ends(stand_in: StandIn, folder: Path) -> None:
    engine = VllmEngine(path=str(folder), dtype="float32")
    held: list[weakref.ref[Any]] = []

    def interrupted() -> None:
        with engine.start(CPU) as running:
            held.append(weakref.ref(running.llm))
            assert held[0]() is not None
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert held[0]() is None


def test_end_token_stops_the_text_and_not_the_engine(
    stand_in: StandIn, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    eos, letter = 260, 257  # the end token and " B" of the byte tokenizer
    monkeypatch.setattr(
        LLM, "_decode", lambda *_: ([letter, eos, letter, letter, letter], "length")
    )
    record = measured(make_spec(*MMLU_SMALL))
    assert by_name(record)["parse_rate"].value == 1.0
    [stored] = make_spec(*MMLU_SMALL).store.load()[0]
    assert set(read_samples(stored)["answer"]) == {" B"}


# What is wrong is said


def test_missing_vllm_is_named_with_the_command_that_installs_it(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ConfigError, match=r"pip install vllm.*not been verified"):
        run(make_spec(*MMLU_SMALL))
    with pytest.raises(ConfigError, match="pip install vllm"):
        run(make_spec(*SPEED_SMALL))


def test_vllm_for_another_device_is_refused(
    stand_in: StandIn, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform = SimpleNamespace(device_type="cuda")
    monkeypatch.setattr(sys.modules["vllm.platforms"], "current_platform", platform)
    with pytest.raises(ConfigError, match=r"device must be cuda, .* got cpu"):
        run(make_spec(*MMLU_SMALL))
    assert not stand_in.started


@pytest.mark.parametrize("task", [MMLU_SMALL, SPEED_SMALL], ids=lambda task: task[0])
def test_folder_without_a_model_is_refused_before_the_engine_starts(
    stand_in: StandIn, make_spec: MakeSpec, tmp_path: Path, task: tuple[str, ...]
) -> None:
    with pytest.raises(ModelError, match=r"nowhere has no config\.json"):
        run(make_spec(*task, f"task.engine.path={tmp_path / 'nowhere'}"))
    assert not stand_in.started


def test_path_must_be_given(stand_in: StandIn, make_spec: MakeSpec) -> None:
    with pytest.raises(ConfigError, match=r"task\.engine\.path must be given"):
        make_spec("mmlu_vllm", "task.engine.path=???")


def test_folder_that_vllm_cannot_load_is_a_model_error(
    stand_in: StandIn, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: object) -> None:
        raise ValueError("Unknown quantization method: other")

    monkeypatch.setattr(sys.modules["vllm"], "LLM", refuse)
    with pytest.raises(ModelError, match=r"must be a folder that vLLM .* loads.*Unknown quant"):
        run(make_spec(*MMLU_SMALL))


def test_engine_that_cuts_prompts_off_is_an_invalid_result(
    stand_in: StandIn, make_spec: MakeSpec
) -> None:
    stand_in.truncate_to = 40
    with pytest.raises(InvalidResult, match=r"every prompt as it is, got 40 tokens"):
        run(make_spec(*MMLU_SMALL))
    [stored] = make_spec(*MMLU_SMALL).store.load()[0]
    assert stored.record.status is Status.INVALID


@pytest.mark.parametrize("task", [MMLU_SMALL, SPEED_SMALL], ids=lambda task: task[0])
def test_engine_that_stops_early_is_an_invalid_result(
    stand_in: StandIn, make_spec: MakeSpec, task: tuple[str, ...]
) -> None:
    stand_in.stop_early = True
    with pytest.raises(InvalidResult, match=r"must decode 5 tokens .* got 1 \(finish_reason stop"):
        run(make_spec(*task))


def test_engine_that_loses_a_prompt_is_an_invalid_result(
    stand_in: StandIn, make_spec: MakeSpec
) -> None:
    stand_in.lose_last = True
    with pytest.raises(InvalidResult, match="must answer 8 prompts, got 7"):
        run(make_spec(*MMLU_SMALL))


def test_recipe_is_refused_since_the_folder_has_its_own(
    stand_in: StandIn, make_spec: MakeSpec
) -> None:
    with pytest.raises(ConfigError, match="quant must be none for mmlu_vllm"):
        make_spec(*MMLU_SMALL, "+quant=int8_row")


@pytest.mark.parametrize("share", [0.0, 1.5, -0.1])
def test_share_of_memory_is_one(share: float) -> None:
    with pytest.raises(ValueError, match=r"gpu_memory_utilization must be in \(0, 1\]"):
        VllmEngine(path=".", gpu_memory_utilization=share)


# Throughput


def test_rates_are_those_of_the_stamps(stand_in: StandIn, make_spec: MakeSpec) -> None:
    record = measured(make_spec(*SPEED_SMALL))
    found = by_name(record)
    # 3 prompts of 8 tokens in one step; 4 steps of 3 tokens after the first.
    assert found["prefill"].value == pytest.approx(3 * 8 / PREFILL_S)
    assert found["prefill_samples"].value == pytest.approx(3 / PREFILL_S)
    assert found["decode"].value == pytest.approx(3 * 4 / (4 * STEP_S))
    assert found["tpot"].value == pytest.approx(STEP_S)
    assert found["ttft"].value == pytest.approx(LATENCY_S)
    assert found["end_to_end"].value == pytest.approx(3 * 13 / (PREFILL_S + 4 * STEP_S))
    assert record.metrics[0] == found["decode"]
    units = {name: str(metric.unit) for name, metric in found.items()}
    assert units["decode"] == units["prefill"] == units["end_to_end"] == "token/s"
    assert (units["prefill_samples"], units["ttft"], units["tpot"]) == ("sample/s", "s", "s/token")
    for name in ("decode", "prefill", "ttft", "tpot"):
        assert found[f"{name}_iqr"].unit is found[name].unit
        assert found[f"{name}_iqr"].value == pytest.approx(0, abs=1e-6)
        assert found[name].n == 10
    assert not any("one step" in warning for warning in record.warnings)


def test_times_between_tokens_are_absent_with_the_reason(
    stand_in: StandIn, make_spec: MakeSpec
) -> None:
    found = by_name(measured(make_spec(*SPEED_SMALL)))
    for percent in (50, 90, 99):
        assert found[f"itl_p{percent}"].value is None
        assert "not those between" in str(found[f"itl_p{percent}"].note)


def test_without_stamps_every_number_is_absent_with_the_reason(
    stand_in: StandIn, make_spec: MakeSpec
) -> None:
    stand_in.stamped = False
    record = measured(make_spec(*SPEED_SMALL))
    assert record.status is Status.OK
    assert {metric.value for metric in record.metrics} == {None}
    assert "no time stamps" in str(record.metrics[0].note)


def test_version_without_latency_has_no_time_to_first_token_and_all_else(
    stand_in: StandIn, make_spec: MakeSpec
) -> None:
    stand_in.has_latency = False
    found = by_name(measured(make_spec(*SPEED_SMALL)))
    # arrival_time is of another clock: to subtract it would give a number without meaning.
    assert found["ttft"].value is None
    assert found["decode"].value == pytest.approx(3 * 4 / (4 * STEP_S))


def test_phases_that_overlap_are_told(stand_in: StandIn, make_spec: MakeSpec) -> None:
    stand_in.spread_s = 0.02
    record = measured(make_spec(*SPEED_SMALL))
    found = by_name(record)
    assert any("not prefilled in one step" in warning for warning in record.warnings)
    # From the first token of the first request to the last of the third.
    assert found["decode"].value == pytest.approx(3 * 4 / (4 * STEP_S + 2 * 0.02))
    assert found["prefill"].value == pytest.approx(3 * 8 / (PREFILL_S + 2 * 0.02))
    assert found["ttft"].value == pytest.approx(LATENCY_S + 2 * 0.02)
    assert found["tpot"].value == pytest.approx(STEP_S)


def test_stamps_that_run_backwards_are_an_invalid_result(
    stand_in: StandIn, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    backwards = SimpleNamespace(scheduled_ts=3.0, first_token_ts=2.0, last_token_ts=4.0)
    monkeypatch.setattr(LLM, "_metrics", lambda *_: backwards)
    with pytest.raises(InvalidResult, match="longer than 0 s"):
        run(make_spec(*SPEED_SMALL))


def test_batch_is_set_to_be_prefilled_at_once_and_never_from_a_cache(
    stand_in: StandIn, make_spec: MakeSpec
) -> None:
    run(make_spec(*SPEED_SMALL))
    [started] = stand_in.started
    assert started["enable_prefix_caching"] is False
    assert started["max_num_seqs"] == 3
    assert started["max_num_batched_tokens"] == 24
    assert started["disable_log_stats"] is False
    assert set(stand_in.batches) == {3}
    assert len(stand_in.batches) > 10  # warm-ups come before the rounds


def test_every_round_is_on_file(stand_in: StandIn, make_spec: MakeSpec) -> None:
    spec = make_spec(*SPEED_SMALL)
    run(spec)
    [stored] = spec.store.load()[0]
    samples = read_samples(stored)
    assert len(samples) == 10


@pytest.mark.parametrize("kind", ["random", "text"])
def test_prompts_are_those_of_task_throughput(
    stand_in: StandIn, make_spec: MakeSpec, tiny: LoadedModel, kind: str
) -> None:
    task = make_spec(*SPEED_SMALL, f"task.prompts={kind}").task
    assert isinstance(task, VllmThroughput)
    size = Size(batch=3, prompt=8, new=5)
    expected = throughput_prompts.prompts_of(task.prompts, task.data, tiny, size, task.seed)
    record = task.run_on(CPU).info
    assert record.data["token_ids_sha256"] == hash_token_ids(expected.tolist())
    assert f"prompts={kind}" in record.protocol


def test_sequences_longer_than_the_model_holds_are_refused(
    stand_in: StandIn, make_spec: MakeSpec
) -> None:
    with pytest.raises(DataError, match="at most the 8192 tokens"):
        run(make_spec(*SPEED_SMALL, "task.prompt_tokens=8192"))
    assert not stand_in.started


@pytest.mark.parametrize("override", ["rounds=9", "new_tokens=1", "batch_size=0"])
def test_work_without_a_rate_or_spread_is_a_configuration_error(
    make_spec: MakeSpec, override: str
) -> None:
    with pytest.raises(ConfigError, match=rf"task\.{override.partition('=')[0]} must be >="):
        make_spec(*SPEED_SMALL, f"task.{override}")
