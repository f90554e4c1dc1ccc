"""Every task in conf/ on the tiny model and embedded data: whole, finite, repeatable results."""

import copy
import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from repository import ROOT

from harness.config import build
from harness.engines.local.engine import LocalEngine
from harness.machine import peaks
from harness.models.loaded import LoadedModel
from harness.models.sources.tiny import TinyModel
from harness.results.evidence import lost_evidence
from harness.results.names import TIMED
from harness.results.record import RunRecord, Unit
from harness.results.store import ResultStore, Stored
from harness.tasks.base import ModelFreeTask, Task, TaskResult

CONF = ROOT / "conf" / "task"
EVERY = sorted(file.stem for file in CONF.glob("*.yaml"))
NAMES = [name for name in EVERY if name != "parity"]
"""Tasks that run here. Parity takes a real backend, and has tests of its own."""
SMALL: dict[str, Any] = {
    "window": 64,
    "limit_windows": 12,
    "limit_documents": 6,
    "limit": 6,
    "shots": 1,
    "shapes": [[3, 32], [2, 48]],
    "draws": 2,
    "prompt_tokens": 16,
    "new_tokens": 6,
    "tasks": ["choices", "pages"],
    "include_path": str(Path(__file__).parent / "lm_eval_tasks"),
}
"""Limits that make a task quick, by the name of the key."""
NUM_SAMPLES = (6, 12, 2 * 3 * 2)
"""Questions, windows, or shapes x kinds of inputs x draws."""
LIMITS = ("6-by-seed-42", "windows=first-12", "draws=2-by-seed-42", "documents=first-6", "S=16|G=6")
"""What protocol lines say of these limits."""

AnyTask = Task | ModelFreeTask
Compose = Callable[..., dict[str, Any]]


class Measured:
    """Each task as its file stands, with small limits, and its result on a model of its own."""

    def __init__(self) -> None:
        self.loaded = TinyModel().load(torch.device("cpu"))
        self.compose: Compose | None = None
        self.settings = functools.cache(self._settings)
        self.result = functools.cache(self._result)

    def _settings(self, name: str) -> dict[str, Any]:
        assert self.compose is not None
        settings: dict[str, Any] = self.compose(f"task={name}")["task"]
        return settings

    def _result(self, name: str) -> TaskResult:
        return run(self.small(name), self.loaded)

    def task(self, name: str) -> AnyTask:
        """Build a task as its file stands."""
        return build(copy.deepcopy(self.settings(name)), "task")

    def small(self, name: str) -> AnyTask:
        """Build a task with small limits."""
        settings = copy.deepcopy(self.settings(name))
        return build(settings | {key: SMALL[key] for key in settings.keys() & SMALL.keys()}, "task")


@pytest.fixture(scope="module")
def _measured() -> Measured:
    return Measured()


@pytest.fixture
def measured(_measured: Measured, composed: Compose, monkeypatch: pytest.MonkeyPatch) -> Measured:
    """Tasks and results, each made once for all tests of this module."""
    # Measuring what the machine can do takes longer than all tasks, and has tests of its own.
    monkeypatch.setattr(peaks, "peaks", lambda _, asked, **__: dict.fromkeys(asked, 1e18))
    _measured.compose = composed
    return _measured


def run(task: AnyTask, loaded: LoadedModel) -> TaskResult:
    """Run a task, on the model if it wants one."""
    return (
        task.run_on(loaded.device)
        if isinstance(task, ModelFreeTask)
        else task.run(LocalEngine(loaded))
    )


def test_there_are_tasks() -> None:
    assert {"perplexity", "mmlu", "mmlu_generate", "matmul", "divergence", "noise_floor"} <= set(
        NAMES
    )


def test_tasks_build_as_their_files_stand_and_reports_know_which_are_timed(
    measured: Measured,
) -> None:
    """A record has the name of a task, and no class to ask."""
    for name in EVERY:
        task = measured.task(name)
        assert name.startswith(task.name), name
        assert task.version >= 1, name
        assert task.is_timed is (task.name in TIMED), name


@pytest.mark.parametrize("name", NAMES)
def test_same_run_gives_the_same_result_twice_and_leaves_model_and_random_state_alone(
    measured: Measured, tiny: LoadedModel, name: str
) -> None:
    first = measured.result(name)
    before = {key: tensor.clone() for key, tensor in tiny.module.state_dict().items()}
    state = torch.random.get_rng_state()
    second = run(measured.small(name), tiny)
    assert all(torch.equal(before[key], t) for key, t in tiny.module.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert first.info == second.info
    if not measured.small(name).is_timed:
        assert first.metrics == second.metrics
        assert first.samples == second.samples


def test_metrics_are_finite_named_and_explained(measured: Measured) -> None:
    for name in NAMES:
        metrics = measured.result(name).metrics
        is_timed = measured.small(name).is_timed
        names = [metric.name for metric in metrics]
        assert len(set(names)) == len(names), name
        for metric in metrics:
            which = f"{name}: {metric}"
            # What a machine does not tell, such as its energy, is null in a timed task.
            assert metric.value is not None or (is_timed and metric.note), which
            assert metric.value is None or math.isfinite(metric.value), which
            assert metric.unit in Unit, which
            assert metric.n >= 1, which
            assert metric.unit is not Unit.FRACTION or 0 <= (metric.value or 0) <= 1, which
            if metric.ci95 is None:
                assert metric.note or metric.unit is Unit.COUNT, which
            else:
                low, high = metric.ci95
                assert metric.value is not None, which
                assert low <= metric.value <= high, which


def test_samples_have_unique_ids_and_finite_scores(measured: Measured) -> None:
    for name in NAMES:
        samples = measured.result(name).samples
        # A timed task files every time it took; how many warm-ups there were is up to the machine.
        assert measured.small(name).is_timed or len(samples) in NUM_SAMPLES, name
        assert len({sample.id for sample in samples}) == len(samples), name
        for sample in samples:
            assert sample.scores, f"{name}: {sample.id}"
            assert all(map(math.isfinite, sample.scores.values())), f"{name}: {sample.id}"


def test_samples_on_file_account_for_the_metrics(measured: Measured, tmp_path: Path) -> None:
    """Else the run would not be on file, and no report would show it."""
    for name in NAMES:
        result = measured.result(name)
        path = tmp_path / name / "model" / "recipe--run.json"
        file, digest = ResultStore(root=tmp_path).write_samples(path, result.samples)
        record = RunRecord.model_construct(
            metrics=result.metrics, samples_file=file, samples_sha256=digest
        )
        assert lost_evidence(Stored(path=path, record=record)) is None, name


def test_facts_of_the_data_need_no_model_and_are_part_of_the_result(measured: Measured) -> None:
    for name in NAMES:
        facts = measured.small(name).data_facts()
        assert facts["name"], name
        assert any(key.endswith("sha256") for key in facts), name
        assert facts.items() <= measured.result(name).info.data.items(), name


def test_protocol_says_what_was_limited(measured: Measured) -> None:
    for name in NAMES:
        protocol = measured.result(name).info.protocol
        assert any(limit in protocol for limit in LIMITS), f"{name}: {protocol}"
