"""Task `throughput_vllm` with a stand-in for vLLM whose clock is known."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from runs import MakeSpec
from vllm_stand_in import LATENCY_S, LLM, PREFILL_S, STEP_S, Measured, StandIn

from harness.errors import ConfigError, DataError, InvalidResult
from harness.models.loaded import LoadedModel
from harness.models.tokens import hash_token_ids
from harness.results.record import Metric, RunRecord, Status
from harness.results.store import read
from harness.runner.run import run
from harness.tasks.throughput import prompts as throughput_prompts
from harness.tasks.throughput.subject import Size
from harness.tasks.throughput.vllm import VllmThroughput

CPU = torch.device("cpu")


def test_rates_are_those_of_the_stamps(measured: Callable[[str], Measured]) -> None:
    record = measured("throughput_vllm").record
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


def by_name(record: RunRecord) -> dict[str, Metric]:
    return {metric.name: metric for metric in record.metrics}


def test_times_between_tokens_are_absent_with_the_reason(
    measured: Callable[[str], Measured],
) -> None:
    found = by_name(measured("throughput_vllm").record)
    for percent in (50, 90, 99):
        assert found[f"itl_p{percent}"].value is None
        assert "not those between" in str(found[f"itl_p{percent}"].note)


def test_without_stamps_every_number_is_absent_with_the_reason(
    stand_in: StandIn, make_spec: MakeSpec
) -> None:
    stand_in.stamped = False
    record = read(run(make_spec("throughput_vllm")).path)
    assert record.status is Status.OK
    assert {metric.value for metric in record.metrics} == {None}
    assert "no time stamps" in str(record.metrics[0].note)


def test_version_without_latency_has_no_time_to_first_token_and_all_else(
    stand_in: StandIn, make_spec: MakeSpec
) -> None:
    stand_in.has_latency = False
    found = by_name(read(run(make_spec("throughput_vllm")).path))
    # arrival_time is of another clock: to subtract it would give a number without meaning.
    assert found["ttft"].value is None
    assert found["decode"].value == pytest.approx(3 * 4 / (4 * STEP_S))


def test_phases_that_overlap_are_told(stand_in: StandIn, make_spec: MakeSpec) -> None:
    stand_in.spread_s = 0.02
    record = read(run(make_spec("throughput_vllm")).path)
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
        run(make_spec("throughput_vllm"))


def test_batch_is_set_to_be_prefilled_at_once_and_never_from_a_cache(
    measured: Callable[[str], Measured],
) -> None:
    stand_in = measured("throughput_vllm").stand_in
    [started] = stand_in.started
    assert started["enable_prefix_caching"] is False
    assert started["max_num_seqs"] == 3
    assert started["max_num_batched_tokens"] == 24
    assert started["disable_log_stats"] is False
    assert set(stand_in.batches) == {3}
    assert len(stand_in.batches) > 10  # warm-ups come before the rounds


def test_every_round_is_on_file(measured: Callable[[str], Measured]) -> None:
    assert len(measured("throughput_vllm").samples) == 10


@pytest.mark.parametrize("kind", ["random", "text"])
def test_prompts_are_those_of_task_throughput(
    stand_in: StandIn, make_spec: MakeSpec, tiny: LoadedModel, kind: str
) -> None:
    task = make_spec("throughput_vllm", f"task.prompts={kind}").task
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
        run(make_spec("throughput_vllm", "task.prompt_tokens=8192"))
    assert not stand_in.started


@pytest.mark.parametrize("override", ["rounds=9", "new_tokens=1", "batch_size=0"])
def test_work_without_a_rate_or_spread_is_a_configuration_error(
    make_spec: MakeSpec, override: str
) -> None:
    with pytest.raises(ConfigError, match=rf"task\.{override.partition('=')[0]} must be >="):
        make_spec("throughput_vllm", f"task.{override}")
