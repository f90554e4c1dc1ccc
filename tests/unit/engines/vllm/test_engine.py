"""Starting vLLM on a folder, and what it must return, with a stand-in for its interface."""

import sys
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from runs import MakeSpec
from vllm_stand_in import StandIn

from harness.engines.vllm.engine import VllmEngine
from harness.errors import ConfigError, InvalidResult, ModelError
from harness.results.record import Status
from harness.runner.run import run

CPU = torch.device("cpu")
TASKS = ("mmlu_vllm", "throughput_vllm")


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


def test_missing_vllm_is_named_with_the_command_that_installs_it(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ConfigError, match=r"pip install vllm.*not been verified"):
        run(make_spec("mmlu_vllm"))
    with pytest.raises(ConfigError, match="pip install vllm"):
        run(make_spec("throughput_vllm"))


def test_vllm_for_another_device_is_refused(
    stand_in: StandIn, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform = SimpleNamespace(device_type="cuda")
    monkeypatch.setattr(sys.modules["vllm.platforms"], "current_platform", platform)
    with pytest.raises(ConfigError, match=r"device must be cuda, .* got cpu"):
        run(make_spec("mmlu_vllm"))
    assert not stand_in.started


@pytest.mark.parametrize("task", TASKS)
def test_folder_without_a_model_is_refused_before_the_engine_starts(
    stand_in: StandIn, make_spec: MakeSpec, tmp_path: Path, task: str
) -> None:
    with pytest.raises(ModelError, match=r"nowhere has no config\.json"):
        run(make_spec(task, f"task.engine.path={tmp_path / 'nowhere'}"))
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
        run(make_spec("mmlu_vllm"))


def test_engine_that_cuts_prompts_off_is_an_invalid_result(
    stand_in: StandIn, make_spec: MakeSpec
) -> None:
    stand_in.truncate_to = 40
    with pytest.raises(InvalidResult, match=r"every prompt as it is, got 40 tokens"):
        run(make_spec("mmlu_vllm"))
    [stored] = make_spec("mmlu_vllm").store.load()[0]
    assert stored.record.status is Status.INVALID


@pytest.mark.parametrize("task", TASKS)
def test_engine_that_stops_early_is_an_invalid_result(
    stand_in: StandIn, make_spec: MakeSpec, task: str
) -> None:
    stand_in.stop_early = True
    with pytest.raises(InvalidResult, match=r"must decode 5 tokens .* got 1 \(finish_reason stop"):
        run(make_spec(task))


def test_engine_that_loses_a_prompt_is_an_invalid_result(
    stand_in: StandIn, make_spec: MakeSpec
) -> None:
    stand_in.lose_last = True
    with pytest.raises(InvalidResult, match="must answer 8 prompts, got 7"):
        run(make_spec("mmlu_vllm"))


def test_recipe_is_refused_since_the_folder_has_its_own(
    stand_in: StandIn, make_spec: MakeSpec
) -> None:
    with pytest.raises(ConfigError, match="quant must be none for mmlu_vllm"):
        make_spec("mmlu_vllm", "+quant=int8_row")


@pytest.mark.parametrize("share", [0.0, 1.5, -0.1])
def test_share_of_memory_is_one(share: float) -> None:
    with pytest.raises(ValueError, match=r"gpu_memory_utilization must be in \(0, 1\]"):
        VllmEngine(path=".", gpu_memory_utilization=share)
