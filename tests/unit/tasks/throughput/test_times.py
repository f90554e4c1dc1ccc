"""An engine that stamps each sequence by itself, knows little else, and cannot compare."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import ClassVar

import pytest
import torch

from harness.data.embedded import EmbeddedData
from harness.engines.base import Engine, Kind
from harness.engines.timed import Stamps, Timed, TimedModel, Workload
from harness.errors import InvalidResult, UnsupportedEngine
from harness.machine import energy
from harness.machine.load import LoadWatch
from harness.results.record import Metric
from harness.tasks.base import TaskResult
from harness.tasks.throughput import prompts as throughput_prompts
from harness.tasks.throughput import throughput as task_module
from harness.tasks.throughput.throughput import Throughput
from harness.tasks.throughput.times import Size
from harness.timing import rounds

PREFILL_S, STEP_S, LATENCY_S = 0.25, 0.01, 0.4


@dataclass
class Stamped(Engine, TimedModel):
    """An engine of known times, 3 sequences of 8 tokens and 5 new ones."""

    label: ClassVar[str] = "stamped"
    kinds: ClassVar[frozenset[Kind]] = frozenset({"time"})
    name, max_length, vocab_size, device, how = "folder", 64, 300, "cpu", "stamps=own"
    runs_here = False

    stamped: bool = True
    has_latency: bool = True
    spread_s: float = 0.0
    """Each sequence is prefilled so much later than the one before."""
    prefill_s: float = PREFILL_S
    asked: list[Workload] = field(default_factory=list)
    requests: int = 0

    @contextmanager
    def time(self, workload: Workload) -> Iterator[TimedModel]:
        self.asked.append(workload)
        yield self

    def request(self) -> Timed:
        self.requests += 1
        return Timed(tuple(map(self._stamps, range(3))) if self.stamped else None, 1.0)

    def _stamps(self, index: int) -> Stamps:
        late = index * self.spread_s
        first = 1000.0 + self.prefill_s + late
        latency = LATENCY_S + late if self.has_latency else None
        return Stamps(1000.0, first, first + 4 * STEP_S, latency)


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "quiet", nullcontext)
    monkeypatch.setattr(task_module, "settings", lambda device: {})
    monkeypatch.setattr(energy, "find", lambda device: energy.Found(None, "no counter here"))
    monkeypatch.setattr(LoadWatch, "warnings", lambda self: ["the worker is load by others"])


def measure(engine: Engine) -> TaskResult:
    return Throughput(data=EmbeddedData(), batch_size=3, prompt_tokens=8, new_tokens=5).run(engine)


def metrics(result: TaskResult) -> dict[str, Metric]:
    return {metric.name: metric for metric in result.metrics}


def test_rates_are_those_of_the_stamps_of_a_batch() -> None:
    result = measure(Stamped())
    found = metrics(result)
    # 3 prompts of 8 tokens in one step; 4 steps of 3 tokens after the first.
    assert found["prefill"].value == pytest.approx(3 * 8 / PREFILL_S)
    assert found["prefill_samples"].value == pytest.approx(3 / PREFILL_S)
    assert found["decode"].value == pytest.approx(3 * 4 / (4 * STEP_S))
    assert found["tpot"].value == pytest.approx(STEP_S)
    assert found["ttft"].value == pytest.approx(LATENCY_S)
    assert found["end_to_end"].value == pytest.approx(3 * 13 / (PREFILL_S + 4 * STEP_S))
    assert result.metrics[0] == found["decode"]
    for name in ("decode", "prefill", "ttft", "tpot"):
        assert found[f"{name}_iqr"].unit is found[name].unit
        assert found[f"{name}_iqr"].value == pytest.approx(0, abs=1e-6)
        assert found[name].n == 10
    assert not any("one step" in warning for warning in result.warnings)


def test_the_model_is_timed_alone_and_what_the_engine_does_not_know_has_a_reason() -> None:
    engine = Stamped()
    result = measure(engine)
    found = metrics(result)
    assert result.baseline is None
    assert not {name for name in found if "ratio" in name or name.startswith("baseline_d")} - {
        "baseline_drift"
    }
    reasons = {
        "itl_p50": "not those between",
        "itl_p99": "not those between",
        "weight_bytes": "does not tell",
        "kv_bytes": "does not tell",
        "decode_mbu": "does not show the layers",
        "prefill_mfu": "does not show the layers",
        "energy_per_token": "no counter here",
    }
    for name, reason in reasons.items():
        assert found[name].value is None
        assert reason in str(found[name].note)
    assert "time of the model's requests" in str(found["baseline_drift"].note)
    assert "the worker is load by others" not in result.warnings
    assert engine.requests > 10  # warm-ups come before the rounds
    assert "|G=5|stamps=own|prompts=random|" in result.info.protocol
    ids = {sample.id for sample in result.samples}
    assert {f"model/round/9/{part}" for part in ("prefill", "decode", "ttft")} < ids
    assert not any("gap" in each for each in ids)


def test_prompts_are_those_of_the_seed_and_run_together() -> None:
    engine = Stamped()
    measure(engine)
    [workload] = engine.asked
    assert workload.new_tokens == 5
    assert workload.prompts == throughput_prompts.draw(300, Size(batch=3, prompt=8, new=5), 42)
    drawn = torch.randint(300, (3, 8), generator=torch.Generator().manual_seed(42))
    assert workload.prompts == tuple(map(tuple, drawn.tolist()))


def test_without_stamps_every_time_is_absent_with_the_reason() -> None:
    found = metrics(measure(Stamped(stamped=False)))
    assert {metric.value for metric in found.values()} == {None}
    for name in ("decode", "tpot_iqr", "itl_p50", "baseline_drift", "decode_mbu"):
        assert "no time stamps" in str(found[name].note)


def test_engine_without_latency_has_no_time_to_first_token_and_all_else() -> None:
    found = metrics(measure(Stamped(has_latency=False)))
    assert found["ttft"].value is None
    assert "when a request arrived" in str(found["ttft"].note)
    assert found["decode"].value == pytest.approx(3 * 4 / (4 * STEP_S))


def test_phases_that_overlap_are_told() -> None:
    result = measure(Stamped(spread_s=0.02))
    found = metrics(result)
    assert any("not prefilled in one step" in warning for warning in result.warnings)
    # From the first token of the first sequence to the last of the third.
    assert found["decode"].value == pytest.approx(3 * 4 / (4 * STEP_S + 2 * 0.02))
    assert found["prefill"].value == pytest.approx(3 * 8 / (PREFILL_S + 2 * 0.02))
    assert found["ttft"].value == pytest.approx(LATENCY_S + 2 * 0.02)
    assert found["tpot"].value == pytest.approx(STEP_S)


def test_stamps_that_run_backwards_are_an_invalid_result() -> None:
    with pytest.raises(InvalidResult, match="longer than 0 s"):
        measure(Stamped(prefill_s=-1.0))


def test_an_engine_that_cannot_time_says_so() -> None:
    with pytest.raises(UnsupportedEngine, match="asked to time"):
        Engine().time(Workload(prompts=((1,),), new_tokens=2))
