"""What a tracker shows of a record, as plain texts and numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from harness.results.record import Metric, RunRecord
from harness.results.store import Stored


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """A record in the terms of trackers."""

    run_id: str
    name: str
    """Recipe and task, such as `int8_row mmlu`."""
    task: str
    settings: dict[str, str]
    """What was measured, on what."""
    numbers: dict[str, float]
    """Metric, with a dot for each slash -> value. `METRIC.low` and `METRIC.high` are the ends of
    its 95 % interval, `METRIC.n` is its n."""
    verdict: str
    """The sentences on the difference from the baseline; empty if there is none on file."""
    record: Path
    """The file of the record."""


@runtime_checkable
class Tracker(Protocol):
    """Protocol: an option of `track=`, a frozen dataclass that sends records to a tracker."""

    @property
    def label(self) -> str:
        """Name of the option, such as `wandb`."""

    def check(self) -> None:
        """Check that the tracker's package is there, before anything is measured.

        Raises:
            ConfigError: It is missing.
        """

    def send(self, facts: Facts) -> None:
        """Send a record. A record that was sent before is not added a second time.

        Raises:
            Exception: Whatever the tracker's package raises.
        """


def facts_of(stored: Stored, sentences: Sequence[str]) -> Facts:
    """Return the facts of a record with status `ok`.

    Args:
        stored: The record.
        sentences: What it says beside the baseline.

    Raises:
        ValueError: The record has no task.
    """
    record = stored.record
    if record.task is None:
        raise ValueError(f"record must have a task, got {record.status} without one")
    recipe = record.recipe or "none"
    return Facts(
        run_id=record.run_id,
        name=f"{recipe} {record.task.name}",
        task=record.task.name,
        settings=_settings(record, recipe),
        numbers={name: value for metric in record.metrics for name, value in _numbers(metric)},
        verdict="\n".join(sentences),
        record=stored.path,
    )


def _settings(record: RunRecord, recipe: str) -> dict[str, str]:
    assert record.task is not None  # noqa: S101 - checked by the caller
    model, quant = record.model, record.quant
    of_model = {} if model is None else {"model": model.name, "dtype": model.dtype}
    of_quant = {} if quant is None else {"bits_per_weight": f"{quant.bits_per_weight:.3f}"}
    return {
        "recipe": recipe,
        "task": record.task.name,
        "protocol": record.task.protocol,
        "data": str(record.task.data.get("name", "")),
        **of_model,
        **of_quant,
        "cpu": record.provenance.cpu,
        "gpu": record.provenance.gpu or "none",
        "config_hash": record.config_hash,
        "command": record.command,
    }


def _numbers(metric: Metric) -> list[tuple[str, float]]:
    if metric.value is None:
        return []
    # MLflow makes folders of slashes, and `perplexity` is a file already.
    key = metric.name.replace("/", ".")
    low_high = zip(("low", "high"), metric.ci95 or (), strict=False)
    return [
        (key, metric.value),
        *((f"{key}.{end}", value) for end, value in low_high),
        (f"{key}.n", metric.n),
    ]
