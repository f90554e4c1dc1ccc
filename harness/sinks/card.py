"""`push=OWNER/NAME`: results in the model card of an exported folder, in the forms of the hub.

A run of an exported folder (`model=local model.path=DIR`, or `engine=vllm engine.path=DIR`) adds
its headline to two places, which the hub shows once the folder is uploaded:

- `model-index` in the metadata of README.md (huggingface.co/docs/hub/model-cards);
- `.eval_results/TASK.yaml` (huggingface.co/docs/hub/eval-results), if the data is a data set of the
  hub, to the hash. The hub shows these only for data sets that are registered as benchmarks.

Nothing is uploaded. A result of the same task, data and protocol is replaced.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml
from huggingface_hub import (
    EvalResult,
    EvalResultEntry,
    ModelCard,
    eval_result_entries_to_yaml,
)

from harness.errors import ConfigError
from harness.output.atomic import write_atomic
from harness.output.export_folder import MANIFEST, README, RESULTS, has_manifest
from harness.results import formatting as figures
from harness.results.parts import in_parts
from harness.results.record import Metric, RunRecord, TaskInfo, Unit
from harness.results.store import Stored

KEY = "push"
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
SOURCE = "https://github.com/quant-harness/quant-harness"
Place = tuple[str, str, str]
"""Data set on the hub, its configuration, its split."""
ON_HUB: Mapping[str, Place] = MappingProxyType(
    {
        "mmlu/test": ("cais/mmlu", "all", "test"),
        "wikitext2-raw-v1/test": ("Salesforce/wikitext", "wikitext-2-raw-v1", "test"),
    }
)
"""Name of data in a record -> where it lies on the hub. Only files of the hub have these names."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CardTarget:
    """The exported folder of a run, and the repository that it will be uploaded to."""

    repository: str
    folder: Path

    @classmethod
    def of(cls, repository: str, resolved: Mapping[str, Any]) -> "CardTarget":
        """Return the target of a resolved configuration.

        Raises:
            ConfigError: The repository is no OWNER/NAME, or the run measures no exported folder.
        """
        if not REPOSITORY.fullmatch(repository):
            raise ConfigError(f"{KEY} must be OWNER/NAME, such as me/my-int4, got {repository!r}")
        nodes = (resolved.get("engine") or {}, resolved.get("model") or {})
        path = next((node["path"] for node in nodes if node.get("path")), None)
        if path is None or not has_manifest(Path(path)):
            got = "a model that is no folder" if path is None else str(path)
            raise ConfigError(
                f"{KEY} must go with a folder that quant-harness export wrote (it has {MANIFEST}), "
                f"got {got}; add model=local model.path=FOLDER"
            )
        return cls(repository=repository, folder=Path(path))

    def send(self, stored: Stored) -> None:
        """Add the headline of each task of a record to the card and to `.eval_results`.

        Raises:
            OSError: A file cannot be read or written.
        """
        for part in in_parts([stored]):
            task, metric = part.record.task, next(iter(part.record.metrics), None)
            if task is None or metric is None or metric.value is None:
                continue
            self._add_to_card(task, metric)
            if place := _place(task):
                self._write_entry(task, metric, place, part.record)

    def _add_to_card(self, task: TaskInfo, metric: Metric) -> None:
        path = self.folder / README
        card = ModelCard.load(path)
        new = _result(task, metric)
        others = [old for old in card.data.eval_results or () if not _is_of(old, new)]
        card.data.model_name = self.repository
        card.data.eval_results = [*others, new]
        write_atomic(path, str(card).encode(), KEY, "folder", force=True)

    def _write_entry(self, task: TaskInfo, metric: Metric, place: Place, record: RunRecord) -> None:
        data_set, configuration, _ = place
        entry = EvalResultEntry(
            dataset_id=data_set,
            task_id=configuration,
            value=_shown_value(metric),
            dataset_revision=task.data.get("revision"),
            date=f"{record.created:%Y-%m-%d}",
            source_url=SOURCE,
            source_name="quant-harness",
            notes=f"{_name(metric)}; {task.protocol}",
        )
        text = yaml.safe_dump(eval_result_entries_to_yaml([entry]), sort_keys=False)
        (self.folder / RESULTS).mkdir(exist_ok=True)
        path = self.folder / RESULTS / f"{task.name}.yaml"
        write_atomic(path, text.encode(), KEY, "folder", force=True)


def _place(task: TaskInfo) -> Place | None:
    return ON_HUB.get(str(task.data.get("name")))


def _result(task: TaskInfo, metric: Metric) -> EvalResult:
    name = str(task.data.get("name", "own data"))
    data_set, configuration, split = _place(task) or (name, None, None)
    return EvalResult(
        task_type="text-generation",
        task_name=task.name,
        dataset_type=data_set,
        dataset_name=name,
        dataset_config=configuration,
        dataset_split=split,
        dataset_revision=task.data.get("revision"),
        dataset_args={"protocol": task.protocol},
        metric_type=metric.name,
        metric_name=_name(metric),
        metric_value=_shown_value(metric),
        source_name="quant-harness",
        source_url=SOURCE,
    )


def _is_of(old: EvalResult, new: EvalResult) -> bool:
    """Return whether an old result is of the same task, data and protocol as a new one."""
    keys = ("task_name", "dataset_type", "dataset_name", "dataset_args", "metric_type")
    return all(getattr(old, key) == getattr(new, key) for key in keys)


def _shown_value(metric: Metric) -> float:
    """Return a value as the hub shows it: a fraction as a percentage."""
    assert metric.value is not None  # noqa: S101 - checked by the caller
    return round(100 * metric.value, 4) if metric.unit is Unit.FRACTION else metric.value


def _name(metric: Metric) -> str:
    """Return the name of a metric with its interval and n, which the hub has no fields for."""
    style: figures.Style = "2 decimals %" if metric.unit is Unit.FRACTION else "plain"
    shown = figures.show_with_interval(metric, style)
    return f"{metric.name}: {shown}, n = {figures.count(metric)}"
