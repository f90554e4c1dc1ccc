"""The protocols of a task, and the result it returns."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from harness.data.overlap import Scored
from harness.engines.base import Engine, Kind
from harness.results.record import BaselineInfo, Compute, Metric, SampleScore, TaskInfo

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskResult:
    """Metrics, the samples behind them, and what defines both."""

    info: TaskInfo
    """Name, version, protocol line and data of the task."""
    metrics: tuple[Metric, ...]
    """The first one is the headline, for places with room for one number."""
    samples: tuple[SampleScore, ...]
    """One for each question, window, document or timed phase."""
    baseline: BaselineInfo | None = None
    """The model that was compared with; None for a task that compares nothing."""
    warnings: tuple[str, ...] = ()


class Measurement(Protocol):
    """What every task says of itself. A task is frozen; its fields are its whole configuration."""

    @property
    def name(self) -> str:
        """Name of the task in records and paths."""

    @property
    def version(self) -> int:
        """Version of the numbers: a change that moves a number raises it."""

    @property
    def needs_trained_weights(self) -> bool:
        """Whether its numbers mean nothing with random weights (`model.weights=random`)."""

    @property
    def is_timed(self) -> bool:
        """Whether it measures speed: it has the device alone, and takes no fake quantization."""

    @property
    def seeds(self) -> Mapping[str, int]:
        """The seeds that the task draws with, by name."""

    def data_facts(self) -> dict[str, Any]:
        """Return what identifies the data. Needs no model; part of a run's identity."""


@runtime_checkable
class ScoresData(Protocol):
    """A task whose data can be compared with the data that a recipe was calibrated on."""

    def scored(self) -> Scored:
        """Return the whole texts, and the questions, that are scored."""


@runtime_checkable
class Task(Measurement, Protocol):
    """A measurement of a model."""

    @property
    def asks(self) -> tuple[Kind, ...]:
        """What the task asks of an engine; if the engine refuses it, the run is `unsupported`."""

    def run(self, engine: Engine) -> TaskResult:
        """Ask the engine, and say what the answers mean.

        Raises:
            InvalidResult: A score is not finite.
            DataError: The data does not fit the model or the task.
        """


@runtime_checkable
class PairedTask(Measurement, Protocol):
    """A measurement of a real backend beside the fake-quantized model of the same recipe."""

    @property
    def asks(self) -> tuple[Kind, ...]:
        """What the task asks of an engine, as in `Task`."""

    def reference(self, engine: Engine) -> Any:
        """Return the answers of the fake-quantized model, for `run_beside`."""

    def run_beside(
        self,
        engine: Engine,
        reference: Any,
        tolerance: Mapping[str, float],
        compute: Compute | None = None,
    ) -> TaskResult:
        """Measure the real model beside the reference.

        Args:
            engine: Answers for the model with the real backend.
            reference: What `reference` returned.
            tolerance: The backend's own largest differences, by name.
            compute: How exact the backend's matmuls were measured to be; None if they were not.
        """


@runtime_checkable
class ModelFreeTask(Measurement, Protocol):
    """A measurement that loads no model; no recipe applies to it."""

    def run_on(self, device: "torch.device") -> TaskResult:
        """Measure; `TaskInfo.needs_model` is False.

        Raises:
            InvalidResult: A score is not finite.
        """
