"""Throughput with a fake clock and models of known speed, where metrics are known; and for real."""

import math
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.data.embedded import EmbeddedData
from harness.engines.local import cpu_matmul as products
from harness.engines.local import timed as local_timed
from harness.engines.local.engine import LocalEngine
from harness.engines.local.shape import shape_of
from harness.engines.timed import Matmuls, NoShape
from harness.errors import DataError, InvalidResult
from harness.machine import energy
from harness.machine import peaks as machine
from harness.machine.load import LoadWatch
from harness.models.loaded import LoadedModel
from harness.models.sources.tiny import TinyModel
from harness.results.record import Metric, Unit
from harness.stats.rounds import MOST_DRIFT
from harness.tasks.base import Task, TaskResult
from harness.tasks.throughput import throughput as task_module
from harness.tasks.throughput.throughput import Throughput
from harness.timing import roofline, rounds

SMALL = {"batch_size": 2, "prompt_tokens": 8, "new_tokens": 5}


@dataclass
class World:
    """A clock, and how long phases take on it."""

    time_ns: int = 0
    prefill_s: dict[str, float] = field(
        default_factory=lambda: {"float": 0.8, "float32_products": 0.2, "recipe": 0.4}
    )
    step_s: dict[str, float] = field(
        default_factory=lambda: {"float": 0.02, "float32_products": 0.01, "recipe": 0.005}
    )
    native_type: str = "bfloat16"
    float32_phases: tuple[str, ...] = ("prefill",)
    """Phases in which float32 products are made where they are asked for."""
    slower: float = 0.0
    """Each request takes so much longer than the one before."""
    noise: Iterator[float] | None = None
    order: list[str] = field(default_factory=list)
    joules_per_s: float = 100.0

    def multiplies_in(self, phase: str) -> str:
        return "float32" if in_float32() and phase in self.float32_phases else self.native_type

    def sleep(self, seconds: float) -> None:
        factor = (1 + self.slower) ** len(self.order) * (next(self.noise) if self.noise else 1.0)
        self.time_ns += round(seconds * factor * 1e9)

    def now(self) -> int:
        return self.time_ns

    mark = now

    def intervals(self, marks: list[int]) -> tuple[int, ...]:
        return tuple(b - a for a, b in pairwise(marks))

    source = "a fake counter"

    def read(self) -> float:
        return self.time_ns * 1e-9 * self.joules_per_s


def in_float32() -> bool:
    """Say whether 16-bit products are made in float32 now."""
    modes = torch.overrides._get_current_function_mode_stack()
    return any(isinstance(mode, products._Float32Matmul) for mode in modes)


@pytest.fixture
def _no_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare every run a garbage collection, nine tenths of its time here; see test_rounds."""
    monkeypatch.setattr(rounds, "quiet", nullcontext)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, _no_collection: None) -> World:
    """Replace model, clock, peaks and counters by ones of known speed."""
    world = World()

    class FakeGeneration:
        cache_bytes = 4096
        attention = "harness_one_query"

        def __init__(
            self,
            loaded: LoadedModel,
            prompts_BS: Tensor,
            new_tokens: int,
            *,
            cache: str,
            compiled: bool = False,
        ) -> None:
            self.loaded, self.prompts_BS, self.left = loaded, prompts_BS, 0
            self.new_tokens, self.compile_s = new_tokens, 1.5 if compiled else 0.0
            self.name = self._in_place()

        def _in_place(self) -> str:
            if not self.loaded.is_float and self.loaded.swaps:
                return "recipe"
            return "float32_products" if in_float32() else "float"

        def _spend(self, phase: dict[str, float]) -> None:
            assert self._in_place() == self.name  # what is timed is what is in the model
            world.sleep(phase[self.name])

        def prefill(self) -> None:
            world.order.append(self.name)
            self.left = self.new_tokens - 1
            self._spend(world.prefill_s)

        def step(self) -> None:
            self.left -= 1
            assert self.left >= 0
            self._spend(world.step_s)

    def peaks(
        device: torch.device, questions: list[str], *, again: bool = False
    ) -> dict[str, float]:
        return dict.fromkeys(questions, 1e9)

    monkeypatch.setattr(local_timed, "Generation", FakeGeneration)
    monkeypatch.setattr(local_timed, "clock_of", lambda device: world)
    monkeypatch.setattr(machine, "peaks", peaks)
    monkeypatch.setattr(energy, "find", lambda device: energy.Found(world, None))
    monkeypatch.setattr(
        local_timed,
        "observe_matmuls",
        lambda generation: {
            phase: Matmuls(work={world.multiplies_in(phase): 1.0}, kernels=("aten.linear",))
            for phase in ("prefill", "decode")
        },
    )
    monkeypatch.setattr(LoadWatch, "warnings", lambda self: [])
    monkeypatch.setattr(task_module, "settings", lambda device: {})
    return world


def task(**options: Any) -> Throughput:
    return Throughput(data=EmbeddedData(), **SMALL | options)


def recipe(loaded: LoadedModel) -> LocalEngine:
    """Swap a weight, as a recipe does; return the engine of the model."""
    layer = loaded.module.model.layers[0].mlp.up_proj
    loaded.swap_parameter(layer, "weight", layer.weight.detach().clone())
    return LocalEngine(loaded)


def value(result: TaskResult, name: str) -> float:
    found = metrics(result)[name].value
    assert found is not None
    return found


def metrics(result: TaskResult) -> dict[str, Metric]:
    return {metric.name: metric for metric in result.metrics}


# Known speeds


def test_rates_of_known_times_are_exact(world: World, tiny: LoadedModel) -> None:
    result = task().run(LocalEngine(tiny))
    assert value(result, "ttft") == pytest.approx(0.8)
    assert value(result, "tpot") == pytest.approx(0.02)
    assert value(result, "decode") == pytest.approx(2 / 0.02)
    assert value(result, "prefill") == pytest.approx(2 * 8 / 0.8)
    assert value(result, "prefill_samples") == pytest.approx(2 / 0.8)
    assert value(result, "end_to_end") == pytest.approx(2 * (8 + 5) / (0.8 + 4 * 0.02))
    assert value(result, "itl_p50") == pytest.approx(0.02)
    assert value(result, "decode_iqr") == pytest.approx(0, abs=1e-6)
    assert result.metrics[0].name == "decode"


def test_rate_times_seconds_is_the_count(world: World, tiny: LoadedModel) -> None:
    world.noise = iter(torch.linspace(1, 2, 10_000).tolist())
    result = task().run(LocalEngine(tiny))
    assert value(result, "decode") * value(result, "tpot") * 4 == pytest.approx(2 * 4)
    assert value(result, "prefill") * value(result, "ttft") == pytest.approx(2 * 8)
    assert value(result, "prefill_samples") * value(result, "ttft") == pytest.approx(2)
    assert value(result, "decode_iqr") > 0


def test_a_recipe_stands_beside_the_unquantized_model(world: World, tiny: LoadedModel) -> None:
    result = task().run(recipe(tiny))
    assert value(result, "decode") == pytest.approx(2 / 0.005)
    assert value(result, "baseline_decode") == pytest.approx(2 / 0.02)
    assert value(result, "baseline_prefill") == pytest.approx(2 * 8 / 0.8)
    assert value(result, "decode_ratio") == pytest.approx(4)
    assert value(result, "prefill_ratio") == pytest.approx(2)
    assert metrics(result)["decode_ratio"].ci95 == pytest.approx((4, 4))
    assert value(result, "baseline_drift") == pytest.approx(0)
    timed = world.order[-20:]
    assert (timed[0], timed[-1]) == ("float", "float")
    assert timed.count("float") == timed.count("recipe") == 10


def test_the_unquantized_model_alone_has_no_ratio(world: World, tiny: LoadedModel) -> None:
    result = task().run(LocalEngine(tiny))
    assert set(world.order) == {"float"}
    names = {name for name in metrics(result) if "ratio" in name or name.startswith("baseline_")}
    assert names == {"baseline_drift"}


def test_interval_of_a_noisy_ratio_covers_the_truth(world: World, tiny: LoadedModel) -> None:
    generator = torch.Generator().manual_seed(3)
    world.noise = iter((1 + 0.05 * torch.rand(20_000, generator=generator)).tolist())
    found = metrics(task(rounds=20).run(recipe(tiny)))["decode_ratio"]
    assert found.ci95 is not None
    assert found.ci95[0] < 4 < found.ci95[1]
    assert found.ci95[1] - found.ci95[0] < 0.2


def test_a_model_that_gets_slower_is_flagged(world: World, tiny: LoadedModel) -> None:
    world.slower = 0.01
    result = task().run(LocalEngine(tiny))
    # The medians of the last three and the first three of ten rounds lie seven rounds apart.
    assert value(result, "baseline_drift") == pytest.approx(1.01**7 - 1, rel=1e-3)
    assert any(warning.startswith("unstable") for warning in result.warnings)
    world.slower, world.order = MOST_DRIFT / 20, []
    assert not any("unstable" in warning for warning in task().run(LocalEngine(tiny)).warnings)


# Two ways of the unquantized model


@pytest.fixture
def half() -> LoadedModel:
    return TinyModel(dtype="bfloat16").load(torch.device("cpu"))


# Both ways are timed on every processor: with 16-bit instructions float32 may be the slower one.
@pytest.mark.parametrize(
    ("float32_s", "of_float32", "of_best", "faster"),
    [(0.2, 0.5, 0.5, "float32"), (1.6, 4.0, 2.0, "native")],
)
def test_a_16_bit_model_is_its_own_baseline_in_both_of_its_ways(
    world: World,
    half: LoadedModel,
    float32_s: float,
    of_float32: float,
    of_best: float,
    faster: str,
) -> None:
    world.prefill_s["float32_products"] = float32_s
    result = task().run(recipe(half))
    assert value(result, "baseline_prefill") == pytest.approx(2 * 8 / 0.8)
    assert value(result, "baseline_float32_prefill") == pytest.approx(2 * 8 / float32_s)
    assert value(result, "prefill_ratio") == pytest.approx(2.0)
    assert value(result, "prefill_ratio_float32") == pytest.approx(of_float32)
    assert value(result, "prefill_ratio_best") == pytest.approx(of_best)
    found = metrics(result)
    assert found["prefill_ratio_best"].ci95 == pytest.approx((of_best, of_best))
    assert f"with {faster} products, the faster" in str(found["prefill_ratio_best"].note)
    assert "with native products" in str(found["prefill_ratio"].note)
    assert "with float32 products" in str(found["prefill_ratio_float32"].note)
    timed = world.order[-30:]
    assert (timed[0], timed[-1]) == ("float", "float")
    assert all(timed.count(name) == 10 for name in ("float", "float32_products", "recipe"))
    assert {sample.id.split("/")[0] for sample in result.samples} == set(timed)


def test_a_phase_in_which_both_ways_are_the_same_matmuls_has_one_baseline(
    world: World, half: LoadedModel
) -> None:
    alone = set(metrics(task().run(recipe(half))))
    assert not {
        name for name in alone if "decode" in name and ("float32" in name or "best" in name)
    }
    world.float32_phases = ("prefill", "decode")
    found = task().run(recipe(half))
    assert value(found, "decode_ratio_float32") == pytest.approx(2)
    assert value(found, "decode_ratio_best") == pytest.approx(2)
    assert value(found, "baseline_float32_decode") == pytest.approx(2 / 0.01)
    world.float32_phases, world.order = (), []
    none = task().run(recipe(half))
    assert set(world.order) == {"float", "recipe"}
    assert not {name for name in metrics(none) if "float32" in name or "best" in name}


def test_a_16_bit_model_alone_has_the_speed_of_both_ways_and_no_ratio(
    world: World, half: LoadedModel
) -> None:
    result = task().run(LocalEngine(half))
    assert result.metrics[0].name == "decode"
    assert value(result, "decode") == pytest.approx(2 / 0.02)
    assert value(result, "prefill") == pytest.approx(2 * 8 / 0.8)
    assert value(result, "baseline_float32_prefill") == pytest.approx(2 * 8 / 0.2)
    assert not {name for name in metrics(result) if "ratio" in name}


def test_a_float32_model_has_one_baseline(world: World, tiny: LoadedModel) -> None:
    world.float32_phases = ("prefill", "decode")
    found = metrics(task().run(recipe(tiny)))
    assert set(world.order) == {"float", "recipe"}
    assert not {name for name in found if "float32" in name or "best" in name}


def test_drift_and_utilization_are_those_of_native_matmuls(world: World, half: LoadedModel) -> None:
    found = metrics(task().run(recipe(half)))
    assert "native products" not in str(found["baseline_drift"].note)
    assert {name for name in found if name.endswith(("mbu", "mfu"))} == {
        "decode_mbu",
        "prefill_mfu",
        "baseline_decode_mbu",
        "baseline_prefill_mfu",
    }


# Inter-token latency, energy, memory, utilization


def test_percentiles_of_too_few_latencies_are_null(world: World, tiny: LoadedModel) -> None:
    found = metrics(task(new_tokens=5).run(LocalEngine(tiny)))  # 40 latencies
    assert found["itl_p50"].value is not None
    assert found["itl_p90"].value is None
    assert found["itl_p90"].note == "needs 100 inter-token latencies, got 40"
    found = metrics(task(new_tokens=101).run(LocalEngine(tiny)))  # 1000 latencies
    assert found["itl_p99"].value == pytest.approx(0.02)


def test_energy_is_that_of_the_requests_over_new_tokens(world: World, tiny: LoadedModel) -> None:
    result = task().run(LocalEngine(tiny))
    joules = 100 * (0.8 + 4 * 0.02)
    assert value(result, "energy_per_token") == pytest.approx(joules / (2 * 5))


def test_energy_without_a_counter_or_time_is_null_with_the_reason(
    world: World, tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.prefill_s["float"] = 0.1
    found = metrics(task().run(LocalEngine(tiny)))["energy_per_token"]
    assert found.value is None
    assert "needs 5 s" in str(found.note)
    monkeypatch.setattr(energy, "find", lambda device: energy.Found(None, "no counter here"))
    assert metrics(task().run(LocalEngine(tiny)))["energy_per_token"].note == "no counter here"


def test_memory_is_that_of_what_is_in_place(world: World, tiny: LoadedModel) -> None:
    whole = value(task().run(LocalEngine(tiny)), "weight_bytes")
    layer = tiny.module.model.layers[0].mlp.up_proj
    tiny.swap_module("model.layers.0.mlp.up_proj", torch.nn.Identity())
    result = task().run(LocalEngine(tiny))
    assert value(result, "weight_bytes") == whole - layer.weight.nbytes
    assert value(result, "kv_bytes") == 4096


def test_bandwidth_is_bytes_of_a_step_over_its_time(world: World, tiny: LoadedModel) -> None:
    result = task().run(LocalEngine(tiny))
    config = tiny.module.config
    positions = 8 + 2.5  # the four steps see 9 .. 12
    keys = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * 4
    num_bytes = value(result, "weight_bytes") + 2 * (positions * keys + config.hidden_size * 4)
    buffers = sum(buffer.nbytes for buffer in tiny.module.buffers())
    assert value(result, "decode_mbu") == pytest.approx(num_bytes / 0.02 / 1e9, abs=buffers / 2e7)


@pytest.mark.parametrize("phase", ["prefill_s", "step_s"])
def test_faster_than_the_machine_is_invalid(world: World, tiny: LoadedModel, phase: str) -> None:
    getattr(world, phase)["float"] = 1e-5
    with pytest.raises(InvalidResult, match="must be at most 1"):
        task().run(LocalEngine(tiny))


def test_attention_of_a_cpu_is_held_against_the_faster_of_its_types(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    # torch's kernel for CPUs takes bfloat16 and computes in float32, faster on many processors.
    loaded = TinyModel(dtype="bfloat16").load(torch.device("cpu"))
    asked: set[str] = set()

    def peaks(device: Any, questions: list[str], *, again: bool = False) -> dict[str, float]:
        asked.update(questions)
        return {q: 1e12 if q == machine.matmul("float32") else 1e9 for q in questions}

    monkeypatch.setattr(machine, "peaks", peaks)
    world.native_type = "float32"
    long = {"prompt_tokens": 4096, "new_tokens": 2, "batch_size": 1}
    shape = roofline.prefill(shape_of(loaded), 0, 1, 4096)
    # Less time than attention alone takes at the peak of bfloat16; all matmuls here are float32.
    world.prefill_s["float"] = 0.5 * shape.attention / 1e9
    used = value(Throughput(data=EmbeddedData(), **long).run(LocalEngine(loaded)), "prefill_mfu")
    assert used == pytest.approx((shape.matmul + shape.attention) / 1e12 / world.prefill_s["float"])
    assert machine.matmul("bfloat16") in asked


def test_a_peak_that_was_too_low_is_measured_again(
    world: World, tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def peaks(device: Any, questions: list[str], *, again: bool = False) -> dict[str, float]:
        asked.append(again)
        return dict.fromkeys(questions, 1e12 if again else 1.0)

    monkeypatch.setattr(machine, "peaks", peaks)
    assert value(task().run(LocalEngine(tiny)), "decode_mbu") < 1
    assert True in asked


def test_a_peak_that_cannot_be_measured_leaves_a_reason(
    world: World, tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(machine, "peaks", fail)
    found = metrics(task().run(LocalEngine(tiny)))
    for name in ("decode_mbu", "prefill_mfu"):
        assert found[name].value is None
        assert "out of memory" in str(found[name].note)


def test_a_model_of_unknown_costs_has_no_utilization_with_the_reason(
    world: World, tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: LoadedModel) -> None:
        raise NoShape("which experts a step reads depends on its tokens")

    monkeypatch.setattr(local_timed, "shape_of", fail)
    found = metrics(task().run(recipe(tiny)))
    for name in ("decode_mbu", "prefill_mfu", "baseline_decode_mbu", "baseline_prefill_mfu"):
        assert found[name].value is None
        assert "which experts" in str(found[name].note)


def test_compiling_is_reported_apart(world: World, tiny: LoadedModel) -> None:
    assert "compile" not in metrics(task().run(LocalEngine(tiny)))
    assert value(task(compile=True).run(LocalEngine(tiny)), "compile") == 1.5


# What is filed


def test_every_time_is_on_file_under_its_own_name(world: World, tiny: LoadedModel) -> None:
    result = task().run(recipe(tiny))
    seconds = {sample.id: sample.scores["seconds"] for sample in result.samples}
    assert len(seconds) == len(result.samples)
    for name in ("float", "recipe"):
        for index in range(10):
            place = f"{name}/round/{index}"
            latencies = [seconds[f"{place}/gap/{step}"] for step in range(4)]
            assert sum(latencies) == pytest.approx(seconds[f"{place}/decode"])
            assert seconds[f"{place}/prefill"] == pytest.approx(world.prefill_s[name])
        assert f"{name}/warm_up/5" in seconds
    tokens = {sample.id: sample.scores.get("tokens") for sample in result.samples}
    assert tokens["recipe/round/0/decode"] == 2 * 4
    assert tokens["recipe/round/0/prefill"] == 2 * 8


def test_protocol_says_what_decides_the_numbers(world: World, tiny: LoadedModel) -> None:
    protocol = task(compile=True).run(LocalEngine(tiny)).info.protocol
    threads = torch.get_num_threads()
    for part in (
        "B=2", "S=8", "G=5", "cache=static", "compile=yes", "attention=harness_one_query",
        f"threads={threads}", "prompts=random", "rounds=10",
    ):  # fmt: skip
        assert part in protocol.split("|")


def test_measured_values_are_no_facts_of_the_data(world: World, tiny: LoadedModel) -> None:
    # Facts decide which records are compared: those of a recipe and its baseline must be equal.
    alone, beside = task().run(LocalEngine(tiny)).info, task().run(recipe(tiny)).info
    assert alone == beside


def test_warnings_say_what_makes_times_doubtful(
    world: World, tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LoadWatch, "warnings", lambda self: ["the machine was busy: a lot"])
    monkeypatch.setattr(task_module, "settings", lambda device: {"cpu_governor": "powersave"})
    world.noise = iter([1.0, 3.0] * 5000)
    warnings = task().run(LocalEngine(tiny)).warnings
    assert "the machine was busy: a lot" in warnings
    assert any("governor is powersave" in warning for warning in warnings)
    world.prefill_s["float"] = 0.01
    assert any("less than 10 s" in warning for warning in task().run(LocalEngine(tiny)).warnings)
    world.slower, world.order = 0.05, []
    assert any("not steady" in warning for warning in task().run(LocalEngine(tiny)).warnings)


# Prompts and limits


def test_random_prompts_are_of_the_seed_and_below_the_vocabulary(
    world: World, tiny: LoadedModel
) -> None:
    facts = [task(seed=seed).run(LocalEngine(tiny)).info.data for seed in (1, 1, 2)]
    assert facts[0] == facts[1] != facts[2]
    assert facts[0]["name"] == "random tokens"


def test_text_prompts_are_pieces_of_the_text(world: World, tiny: LoadedModel) -> None:
    text = EmbeddedData().text()
    data = task(prompts="text").run(LocalEngine(tiny)).info.data
    assert data["text_sha256"] == text.sha256
    ids = tiny.tokenizer(text.text, verbose=False)["input_ids"]
    made: list[Tensor] = []

    class Kept(local_timed.Generation):  # type: ignore[name-defined,misc]
        def __init__(self, loaded: LoadedModel, prompts_BS: Tensor, *args: Any, **kw: Any) -> None:
            made.append(prompts_BS)
            super().__init__(loaded, prompts_BS, *args, **kw)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local_timed, "Generation", Kept)
        task(prompts="text").run(LocalEngine(tiny))
    assert made[0].tolist() == [ids[:8], ids[8:16]]


def test_prompts_that_do_not_fit_are_refused(world: World, tiny: LoadedModel) -> None:
    with pytest.raises(DataError, match=r"8190 \+ 5"):
        task(prompt_tokens=8190).run(LocalEngine(tiny))
    with pytest.raises(DataError, match=r"task\.batch_size = 4000"):
        task(prompts="text", prompt_tokens=8000, batch_size=4000).run(LocalEngine(tiny))


@pytest.mark.parametrize(
    ("name", "least"),
    [("rounds", 10), ("new_tokens", 2), ("batch_size", 1), ("prompt_tokens", 1), ("seed", 0)],
)
def test_what_has_no_rate_or_no_spread_is_refused(name: str, least: int) -> None:
    task(**{name: least})
    with pytest.raises(ValueError, match=f"{name} must be >= {least}, got {least - 1}"):
        task(**{name: least - 1})


def test_it_is_a_timed_task_for_any_weights() -> None:
    assert isinstance(task(), Task)
    assert task().is_timed
    assert not task().needs_trained_weights


# For real


@pytest.mark.usefixtures("_no_collection")
def test_float32_matmuls_really_run_in_float32_and_only_for_many_rows(
    half: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        machine, "peaks", lambda device, questions, again=False: dict.fromkeys(questions, 1e15)
    )
    seen: dict[str, Any] = {}
    all_metrics = task_module.all_metrics

    def see(times: Any, subjects: Any, *rest: Any) -> Any:
        for name, subject in subjects.items():
            seen[name] = {phase: set(made.work) for phase, made in subject.matmuls.items()}
        return all_metrics(times, subjects, *rest)

    monkeypatch.setattr(task_module, "all_metrics", see)
    result = task(prompt_tokens=products.LEAST_ROWS, batch_size=1).run(LocalEngine(half))
    native = {"prefill": {"bfloat16"}, "decode": {"bfloat16"}}
    # The head sees one row.
    assert seen == {
        "float": native,
        "float32_products": native | {"prefill": {"float32", "bfloat16"}},
    }
    assert value(result, "baseline_float32_prefill") > 0
    few = task(prompt_tokens=products.LEAST_ROWS - 1, batch_size=1).run(LocalEngine(half))
    assert "baseline_float32_prefill" not in metrics(few)


@pytest.mark.parametrize("cache", ["static", "dynamic"])
def test_a_real_model_is_timed_and_left_as_it_was(
    tiny: LoadedModel, cache: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        machine, "peaks", lambda device, questions, again=False: dict.fromkeys(questions, 1e15)
    )
    layer = tiny.module.model.layers[0].mlp.up_proj
    original = layer.weight
    result = task(cache=cache).run(recipe(tiny))
    tiny.restore()
    assert layer.weight is original
    found = metrics(result)
    assert found["decode"].unit is Unit.TOKEN_PER_S
    for metric in result.metrics:
        assert metric.value is None or math.isfinite(metric.value)
        assert metric.note
    assert value(result, "decode_ratio") == pytest.approx(1, rel=0.9)  # the same model twice
    positions = 8 + 4 + (cache == "static")  # a static cache has room for the last token too
    assert value(result, "kv_bytes") == 2 * 2 * 2 * 2 * 12 * 4 * positions
    assert {sample.id.split("/")[0] for sample in result.samples} == {"float", "recipe"}
