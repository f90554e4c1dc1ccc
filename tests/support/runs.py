"""Runs of small tasks on the tiny model: what tests ask for, what they put in between, and what is on file afterwards."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from harness.engines.base import Kind
from harness.engines.local.engine import LocalEngine
from harness.results.store import Stored, read
from harness.runner.run import RunSpec
from harness.tasks.base import Task, TaskResult

MakeSpec = Callable[..., RunSpec]
PERPLEXITY = ("task=perplexity", "task.window=64", "task.limit_windows=12")
MMLU = ("task=mmlu", "task.limit=4")
INT8 = "+quant=int8_row"


@dataclass(frozen=True, kw_only=True)
class Wrapped:
    """A task with something done before it, and a version of its own."""

    task: Task
    before: Callable[[LocalEngine], None] = lambda _engine: None
    version: int = 1
    needs_trained_weights: bool = True
    is_timed: bool = False

    @property
    def name(self) -> str:
        return self.task.name

    @property
    def seeds(self) -> Mapping[str, int]:
        return self.task.seeds

    @property
    def asks(self) -> tuple[Kind, ...]:
        return self.task.asks

    def data_facts(self) -> dict[str, Any]:
        return self.task.data_facts()

    def run(self, engine: LocalEngine) -> TaskResult:
        self.before(engine)
        return self.task.run(engine)


def raising(reason: BaseException) -> Callable[[LocalEngine], None]:
    """Return what fails for this reason when it is called."""

    def before(_engine: LocalEngine) -> None:
        raise reason

    return before


def parameters_of(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return every parameter by its path, shared ones once for each."""
    return dict(module.named_parameters(remove_duplicate=False))


def records(spec: RunSpec) -> list[Stored]:
    """Return what a run has on file, oldest first; no file is damaged."""
    stored, problems = spec.store.load()
    assert problems == []
    return stored


def metrics(path: Path) -> dict[str, Any]:
    """Return the metrics of a record by name."""
    return {metric.name: metric.model_dump() for metric in read(path).metrics}
