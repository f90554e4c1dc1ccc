"""What a task is, and what it gives back."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

from harness.data.overlap import Scored
from harness.models.loaded import LoadedModel
from harness.results.record import BaselineInfo, Compute, Metric, SampleScore, TaskInfo

BATCH_TOKENS = {"cpu": 2048, "cuda": 16384}
"""Tokens that run together unless a task says otherwise, by type of device: enough to keep its cores busy."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskResult:
    """Numbers, the items behind them, and what defines them."""

    info: TaskInfo
    metrics: tuple[Metric, ...]
    """The first is the headline: what one line has room for."""
    samples: tuple[SampleScore, ...]
    baseline: BaselineInfo | None = None
    """What the model was compared with; None for a task that compares nothing."""
    warnings: tuple[str, ...] = ()


class Measurement(Protocol):
    """What every task says of itself. Frozen: the fields are the whole configuration."""

    @property
    def name(self) -> str:
        """Name of the task in records and paths."""

    @property
    def version(self) -> int:
        """Raised by every change that moves a number."""

    @property
    def needs_trained_weights(self) -> bool:
        """It means nothing for a model of random weights (`model.weights=random`)."""

    @property
    def is_timed(self) -> bool:
        """It measures speed: it has the device to itself, and a fake-quantized recipe has no value in it."""

    @property
    def seeds(self) -> Mapping[str, int]:
        """The seeds that the task draws with, by name."""

    def data_facts(self) -> dict[str, Any]:
        """Return what identifies the data, without a model: the part of a run's identity that is not configuration."""


@runtime_checkable
class ScoresData(Protocol):
    """A task that says which data its scores come from, so that what a recipe was fitted to can be compared with it."""

    def scored(self) -> Scored:
        """Return texts and questions, whole, whatever share of them is taken."""


@runtime_checkable
class Task(Measurement, Protocol):
    """A measurement of a model."""

    def run(self, loaded: LoadedModel) -> TaskResult:
        """Measure.

        Raises:
            InvalidResult: A score is not finite.
            DataError: The data does not fit the model or the task.
        """


@runtime_checkable
class PairedTask(Measurement, Protocol):
    """A measurement of a real backend beside the fake one of the same recipe."""

    def reference(self, loaded: LoadedModel) -> Any:
        """Return what the fake-quantized model says; `run_beside` gets it."""

    def run_beside(
        self,
        loaded: LoadedModel,
        reference: Any,
        tolerance: Mapping[str, float],
        compute: Compute | None = None,
    ) -> TaskResult:
        """Measure the real model beside it; `tolerance` is the backend's own, `compute` how exactly its products were found to be."""


@runtime_checkable
class ModelFreeTask(Measurement, Protocol):
    """A measurement without a model: none is loaded for it, and no recipe applies to it."""

    def run_on(self, device: torch.device) -> TaskResult:
        """Measure; `TaskInfo.needs_model` is False.

        Raises:
            InvalidResult: A score is not finite.
        """


def hash_token_ids(sequences: Iterable[Sequence[int]]) -> str:
    """Return the SHA-256 over token sequences: each its length and its ids, as little-endian int32."""
    digest = hashlib.sha256()
    for ids in sequences:
        digest.update(np.asarray([len(ids), *ids], dtype="<i4").tobytes())
    return digest.hexdigest()
