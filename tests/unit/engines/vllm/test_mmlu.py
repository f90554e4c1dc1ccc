"""Task `mmlu_vllm` with a stand-in for vLLM: the answers are those of `mmlu_generate`."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from runs import MakeSpec
from vllm_stand_in import LLM, VERSION, Measured, SamplingParams, StandIn

from harness.engines.vllm.engine import UNVERIFIED
from harness.models.checkpoints.folder import folder_fingerprint
from harness.models.sources.pretrained import LocalModel
from harness.report import __main__ as report
from harness.results.record import Status
from harness.results.store import read, read_samples
from harness.runner.run import run
from harness.tasks.mmlu.generate import Generate
from harness.tasks.mmlu.mmlu import MMLU
from harness.tasks.mmlu.vllm import VllmMMLU

CPU = torch.device("cpu")


def test_answers_are_those_of_mmlu_generate_on_the_same_prompts(
    stand_in: StandIn, make_spec: MakeSpec, folder: Path
) -> None:
    spec = make_spec("mmlu_vllm")
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
    measured: Callable[[str], Measured], folder: Path
) -> None:
    _, record, samples, _ = measured("mmlu_vllm")
    assert record.status is Status.OK
    assert record.task is not None
    assert (record.task.name, record.task.needs_model) == ("mmlu_vllm", False)
    assert record.task.data["engine"] == "vllm"
    assert record.task.data["engine_version"] == VERSION
    assert record.task.data["checkpoint_fingerprint"] == folder_fingerprint(folder)
    assert record.config["task"]["engine"]["path"] == str(folder)
    assert UNVERIFIED in record.warnings
    assert len(samples) == 8


def test_run_on_file_is_repeated_for_another_version_alone(
    stand_in: StandIn, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not run(make_spec("mmlu_vllm")).skipped
    assert run(make_spec("mmlu_vllm")).skipped
    monkeypatch.setattr(sys.modules["vllm"], "__version__", "another")
    assert not run(make_spec("mmlu_vllm")).skipped


def test_report_shows_what_an_engine_measured(
    measured: Callable[[str], Measured], tmp_path: Path
) -> None:
    _, record, _, path = measured("mmlu_vllm")
    headline = record.metrics[0].value
    assert headline is not None
    text = report.write(path.parents[2], tmp_path / "reports", "engines").read_text()
    text = text.replace("\\", "")  # underscores are escaped in Markdown
    assert "mmlu_vllm: vllm" in text
    assert f"{100 * headline:.2f} %" in text
    assert path.name in text


def test_every_prompt_goes_in_at_once_and_is_decoded_greedily(
    stand_in: StandIn, make_spec: MakeSpec
) -> None:
    run(make_spec("mmlu_vllm", "task.engine.max_model_len=4096", "task.engine.seed=3"))
    assert stand_in.batches == [8]
    [sampling] = stand_in.sampled
    # The rule reads the end token. To forbid it (min_tokens) would change what is decoded.
    assert sampling == SamplingParams(
        temperature=0.0, max_tokens=5, ignore_eos=True, detokenize=False
    )
    [started] = stand_in.started
    assert (started["dtype"], started["max_model_len"], started["seed"]) == ("float32", 4096, 3)


def test_end_token_stops_the_text_and_not_the_engine(
    stand_in: StandIn, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    eos, letter = 260, 257  # the end token and " B" of the byte tokenizer
    monkeypatch.setattr(
        LLM, "_decode", lambda *_: ([letter, eos, letter, letter, letter], "length")
    )
    record = read(run(make_spec("mmlu_vllm")).path)
    parse_rate = record.metric("parse_rate")
    assert parse_rate is not None
    assert parse_rate.value == 1.0
    [stored] = make_spec("mmlu_vllm").store.load()[0]
    assert set(read_samples(stored)["answer"]) == {" B"}
