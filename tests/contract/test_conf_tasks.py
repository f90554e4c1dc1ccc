"""Every task in conf/ runs on the tiny model with embedded data, and gives whole, finite, repeatable results."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from repository import ROOT

from harness.config import build
from harness.models.loaded import LoadedModel
from harness.models.sources.tiny import TinyModel
from harness.results.evidence import lost_evidence
from harness.results.names import TIMED
from harness.results.record import RunRecord, Unit
from harness.results.store import ResultStore, Stored
from harness.tasks.base import ModelFreeTask, Task, TaskResult

CONF = ROOT / "conf" / "task"
ELSEWHERE = ("parity", "mmlu_vllm", "throughput_vllm")
"""Tasks with tests of their own: a real backend stands beside the fake one, an engine must be installed."""
NAMES = sorted({file.stem for file in CONF.glob("*.yaml")} - {*ELSEWHERE})
SMALL = {
    "window": 64,
    "limit_windows": 12,
    "limit_documents": 6,
    "limit": 6,
    "shots": 1,
    "shapes": "[[3,32],[2,48]]",
    "draws": 2,
    "prompt_tokens": 16,
    "new_tokens": 6,
    "tasks": "[choices,pages]",
    "include_path": Path(__file__).parent / "lm_eval_tasks",
}
"""Limits that make a task quick, by the name of the key."""

NUM_SAMPLES = (6, 12, 2 * 3 * 2)
"""Questions, windows, or shapes x kinds of inputs x draws."""

AnyTask = Task | ModelFreeTask
Compose = Callable[..., dict[str, Any]]
each_task = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(scope="module")
def results() -> Callable[[AnyTask], TaskResult]:
    """Run a task on a model of its own, once for all tests of this module."""
    loaded = TinyModel().load(torch.device("cpu"))
    known: dict[str, TaskResult] = {}

    def result(task: AnyTask) -> TaskResult:
        if repr(task) not in known:
            known[repr(task)] = measured(task, loaded)
        return known[repr(task)]

    return result


def measured(task: AnyTask, loaded: LoadedModel) -> TaskResult:
    """Run a task, on the model if it wants one."""
    return task.run_on(loaded.device) if isinstance(task, ModelFreeTask) else task.run(loaded)


def small(composed: Compose, name: str) -> AnyTask:
    """Build a task with small limits."""
    keys = composed(f"task={name}")["task"].keys() & SMALL.keys()
    return build(
        composed(f"task={name}", *(f"task.{key}={SMALL[key]}" for key in keys))["task"], "task"
    )


def test_there_are_tasks() -> None:
    assert {"perplexity", "mmlu", "mmlu_generate", "matmul", "divergence", "noise_floor"} <= set(
        NAMES
    )


@each_task
def test_task_builds_as_its_file_stands(composed: Compose, name: str) -> None:
    task = build(composed(f"task={name}")["task"], "task")
    assert name.startswith(task.name)
    assert task.version >= 1


@pytest.mark.parametrize("name", sorted(file.stem for file in CONF.glob("*.yaml")))
def test_reports_know_which_tasks_are_timed(composed: Compose, name: str) -> None:
    """A record has the name of a task, and no class to ask."""
    engine = ["task.engine.path=/x"] if name.endswith("_vllm") else []
    task = build(composed(f"task={name}", *engine)["task"], "task")
    assert task.is_timed is (task.name in TIMED)


@each_task
def test_metrics_are_finite_named_and_explained(
    composed: Compose, results: Callable[[AnyTask], TaskResult], name: str
) -> None:
    task = small(composed, name)
    metrics = results(task).metrics
    names = [metric.name for metric in metrics]
    assert len(set(names)) == len(names)
    for metric in metrics:
        # What a machine does not tell, such as its energy, is null in a timed task.
        assert metric.value is not None or (task.is_timed and metric.note)
        assert metric.value is None or math.isfinite(metric.value)
        assert metric.unit in Unit
        assert metric.n >= 1
        assert metric.unit is not Unit.FRACTION or 0 <= (metric.value or 0) <= 1
        if metric.ci95 is None:
            assert metric.note or metric.unit is Unit.COUNT
        else:
            low, high = metric.ci95
            assert metric.value is not None
            assert low <= metric.value <= high


@each_task
def test_samples_have_unique_ids_and_finite_scores(
    composed: Compose, results: Callable[[AnyTask], TaskResult], name: str
) -> None:
    task = small(composed, name)
    samples = results(task).samples
    # A timed task files every time it took; how many warm-ups there were is up to the machine.
    assert task.is_timed or len(samples) in NUM_SAMPLES
    assert len({sample.id for sample in samples}) == len(samples)
    for sample in samples:
        assert sample.scores
        assert all(math.isfinite(value) for value in sample.scores.values())


@each_task
def test_items_on_file_account_for_the_metrics(
    composed: Compose, results: Callable[[AnyTask], TaskResult], name: str, tmp_path: Path
) -> None:
    """Else the run would not be on file, and no report would show it."""
    result = results(small(composed, name))
    path = tmp_path / "task" / "model" / "recipe--run.json"
    file, digest = ResultStore(root=tmp_path).write_samples(path, result.samples)
    record = RunRecord.model_construct(
        metrics=result.metrics, samples_file=file, samples_sha256=digest
    )
    assert lost_evidence(Stored(path=path, record=record)) is None


@each_task
def test_same_run_gives_the_same_result_twice(
    composed: Compose, results: Callable[[AnyTask], TaskResult], tiny: LoadedModel, name: str
) -> None:
    task = small(composed, name)
    first, second = results(task), measured(task, tiny)
    if task.is_timed:
        assert first.info == second.info
        return
    assert first.metrics == second.metrics
    assert first.samples == second.samples
    assert first.info == second.info


@each_task
def test_running_leaves_the_weights_and_the_random_state_alone(
    composed: Compose, tiny: LoadedModel, name: str
) -> None:
    before = {key: tensor.clone() for key, tensor in tiny.module.state_dict().items()}
    state = torch.random.get_rng_state()
    measured(small(composed, name), tiny)
    assert all(torch.equal(before[key], t) for key, t in tiny.module.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), state)


@each_task
def test_facts_of_the_data_need_no_model_and_are_part_of_the_result(
    composed: Compose, results: Callable[[AnyTask], TaskResult], name: str
) -> None:
    task = small(composed, name)
    facts = task.data_facts()
    assert facts["name"]
    assert any(key.endswith("sha256") for key in facts)
    assert facts.items() <= results(task).info.data.items()


@each_task
def test_protocol_says_what_was_limited(
    composed: Compose, results: Callable[[AnyTask], TaskResult], name: str
) -> None:
    protocol = results(small(composed, name)).info.protocol
    limits = (
        "6-by-seed-42",
        "windows=first-12",
        "draws=2-by-seed-42",
        "documents=first-6",
        "S=16|G=6",
    )
    assert any(limit in protocol for limit in limits)
