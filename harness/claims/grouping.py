"""Which records may be compared: groups of runs that differ in the recipe alone.

`comparable` groups records by what they say of themselves:

- the task, its version, its protocol and all of its options;
- the data, by hash;
- the model, by fingerprint, type, device, attention and matmuls;
- for timed tasks, the processor, its threads and the GPU.

A difference is taken only from the baseline of the same group.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness.claims.row_names import row_names
from harness.errors import ResultError
from harness.identity import FIRST_ENGINE, canonical
from harness.results import names
from harness.results.outdated import outdated, without_narrow_intervals
from harness.results.record import (
    BaselineInfo,
    CalibrationInfo,
    Hardware,
    Metric,
    ModelInfo,
    QuantReport,
    RunRecord,
    Status,
    TaskInfo,
)
from harness.results.store import Stored

NO_QUALITY = (names.THROUGHPUT, names.PARITY)
"""Tasks whose numbers do not say how good a model is."""
HASHES = ("sha256", "fingerprint")
"""Ends of the keys in `TaskInfo.data` that identify the data."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A run that ended well; model, quant, task and the value of its headline are not None."""

    label: str
    """The recipe's name, with what tells it apart from others; see `row_names`."""
    stored: Stored
    model: ModelInfo
    quant: QuantReport
    task: TaskInfo
    headline: Metric
    value: float

    @property
    def is_baseline(self) -> bool:
        """Whether this is the unquantized model."""
        # A dequantized GGUF file has float weights too, but names the model that it was made of.
        return self.quant.kind == "none" and self.model.baseline is None

    @property
    def element(self) -> str | None:
        """Element format of a recipe with one format, such as `int8`."""
        return self._format_parts()[0]

    @property
    def granularity(self) -> str | None:
        """Granularity of a recipe with one format: `tensor`, `row`, `g64`."""
        return self._format_parts()[1]

    def _format_parts(self) -> tuple[str | None, str | None]:
        names = set(self.quant.formats.values())
        # A recipe that rounds activations too does not measure the format of its weights.
        if len(names) != 1 or self.quant.input_formats:
            return None, None
        element, _, granularity = names.pop().rpartition("_")
        return element, granularity

    def metric(self, name: str) -> Metric | None:
        """Return a metric of the run, or None."""
        return self.stored.record.metric(name)

    def value_of(self, name: str) -> float | None:
        """Return the value of a metric of the run; None if it is missing or has no value."""
        metric = self.metric(name)
        return None if metric is None else metric.value


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Runs that differ in the recipe alone, best first."""

    rows: tuple[Row, ...]
    apart: str = ""
    """What tells the group from others of the same task, model and data; see `titles`."""

    @property
    def model(self) -> ModelInfo:
        """The model of the baseline; without a baseline, of the first row."""
        return (self.baseline or self.rows[0]).model

    @property
    def task(self) -> TaskInfo:
        """The task of all rows."""
        return self.rows[0].task

    @property
    def headline(self) -> Metric:
        """The headline of the first row; the others differ in value only."""
        return self.rows[0].headline

    @property
    def baseline(self) -> Row | None:
        """The row of the unquantized model, if it was measured.

        Of several, such as with two batch sizes, the one whose engine most recipes share, then the
        latest. It is never chosen by its value: the best of several is lucky.
        """
        engines = Counter(_engine(row) for row in self.rows if not row.is_baseline)
        return max(
            (row for row in self.rows if row.is_baseline),
            key=lambda row: (engines[_engine(row)], row.stored.record.created),
            default=None,
        )

    @property
    def compared_with(self) -> BaselineInfo | ModelInfo:
        """The unquantized model that the group's models were compared with."""
        named = (row.stored.record.baseline for row in self.rows)
        return next((found for found in named if found is not None), self.model)

    @property
    def suffix(self) -> str:
        """The end of a title: a colon and `apart`, or nothing."""
        return f": {self.apart}" if self.apart else ""

    @property
    def is_quality(self) -> bool:
        """Whether the numbers say how good a model is."""
        return self.task.name not in NO_QUALITY

    def find(self, element: str, granularity: str) -> Row | None:
        """Return the row of a format; None if it was not measured.

        Only rows that quantize the same parameters as most rows of one format count. The
        fake-quantized row is preferred: nothing but the format distinguishes it.
        """
        counts = Counter(row.quant.num_quantized for row in self.rows if row.granularity)
        usual = max(counts, key=lambda num: (counts[num], -num), default=None)
        found = [
            row
            for row in self.rows
            if (row.element, row.granularity) == (element, granularity)
            and row.quant.num_quantized == usual
        ]
        return min(found, key=lambda row: row.quant.kind == "real", default=None)


def finished(stored: Sequence[Stored]) -> list[Stored]:
    """Return the runs that ended well; of repeated runs the latest."""
    latest = {measured(item): item for item in stored if item.record.status is Status.OK}
    # Older records do not keep the calibration text. A run with a known text replaces them.
    known = {of for of, text in latest if text is not None}
    return [item for (of, text), item in latest.items() if text is not None or of not in known]


def _engine(row: Row) -> str:
    """Return the configuration of a run's engine as text; it may decide the last digits."""
    engine = row.stored.record.config.get("engine") or FIRST_ENGINE
    return json.dumps(canonical(engine), sort_keys=True, default=str)


def unfinished(stored: Sequence[Stored]) -> list[Stored]:
    """Return the runs that did not end well and were not repeated with success."""
    done = {asked_for(item) for item in stored if item.record.status is Status.OK}
    return [
        item
        for item in stored
        if item.record.status is not Status.OK and asked_for(item) not in done
    ]


def shown(stored: Sequence[Stored]) -> list[Stored]:
    """Return the runs whose numbers a report shows: finished, and not known to be wrong."""
    return [item for item in finished(stored) if outdated(item.record) is None]


def asked_for(item: Stored) -> tuple[str, Hardware | None]:
    """Return what identifies a run, however it ended: its configuration; if timed, its machine."""
    record = item.record
    task = record.task.name if record.task is not None else item.path.parts[-3]
    return item.identity, record.provenance.hardware if task in names.TIMED else None


def measured(item: Stored) -> tuple[Hashable, CalibrationInfo | None]:
    """Return what identifies a run that ended well, and the text that its recipe was fitted to.

    The identity has the weights and the data: both may change under one path. A run on the weights
    of before stays on file, and stays the baseline of other runs on them.
    """
    record = item.record
    model, quant, task = record.model, record.quant, record.task
    hashes = {} if task is None else {k: v for k, v in task.data.items() if k.endswith(HASHES)}
    seen = (
        model and (model.fingerprint, model.baseline),
        json.dumps(hashes, sort_keys=True, default=str),
    )
    return (asked_for(item), seen), quant.calibration if quant is not None else None


def comparable(stored: Sequence[Stored]) -> list[Group]:
    """Return the groups of the runs that are shown; runs without a model are in no group."""
    groups: dict[str, list[Stored]] = defaultdict(list)
    for item in shown(stored):
        if item.record.model is not None:
            groups[_key(item.record)].append(item)
    labels = row_names([*groups.values()])
    found = [group for items in groups.values() if (group := _group(items, labels)).rows]
    return sorted(found, key=lambda group: (group.model.name, group.task.name, group.task.protocol))


def weights_of(record: RunRecord) -> str | None:
    """Return the fingerprint of the unquantized weights that a record is about."""
    model, base = record.model, record.baseline
    if base is not None and base.relation == "second model":
        return base.fingerprint
    if model is None:
        return None
    # A quantized checkpoint belongs to the model that it was made of.
    return model.baseline or model.fingerprint


def why_not_comparable(one: RunRecord, other: RunRecord) -> str | None:
    """Return what two records do not have in common, such as `task.version: 1 and 2`, or None."""
    own, others = _common(one), _common(other)
    found = [
        f"{name}: {_short(own.get(name))} and {_short(others.get(name))}"
        for name in dict.fromkeys([*own, *others])
        if own.get(name) != others.get(name)
    ]
    return "; ".join(found) or None


def _short(value: Any, longest: int = 60) -> str:
    text = json.dumps(value, sort_keys=True, default=str) if isinstance(value, dict) else str(value)
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def _key(record: RunRecord) -> str:
    """Return what two records must have in common to be compared, as text."""
    return json.dumps(_common(record), sort_keys=True)


def _common(record: RunRecord) -> dict[str, Any]:
    """Return what two records must have in common to be compared, by name."""
    model, task = record.model, record.task
    if model is None or task is None:
        raise ResultError(f"run {record.run_id} must have model and task to be compared")
    beside = record.baseline.dtype if record.baseline is not None else model.dtype
    # The hashes identify the data; where it came from does not matter.
    facts = {f"data.{key}": value for key, value in task.data.items() if key != "revision"}
    return {
        "task": task.name,
        "task version": task.version,
        "protocol": task.protocol,
        **{f"task.{key}": value for key, value in options(record).items()},
        **facts,
        "unquantized weights": weights_of(record),
        "kind of weights": model.weights,
        "dtype": [model.dtype] if beside == model.dtype else [model.dtype, beside],
        "device": model.device,
        "attention": model.attention,
        "matmuls": model.products,
        "machine": record.provenance.hardware if task.name in names.TIMED else (),
    }


def options(record: RunRecord) -> dict[str, Any]:
    """Return every option of the task except its data; see `harness.identity.canonical`."""
    return {key: value for key, value in canonical(record.config["task"]).items() if key != "data"}


def _group(items: Sequence[Stored], labels: Mapping[str, str]) -> Group:
    """Return the rows of a group, best first; of equal values the smaller model first."""
    rows = [row for item in items if (row := _row(item, labels)) is not None]
    higher = bool(rows) and rows[0].headline.higher_is_better
    rows.sort(key=lambda row: (-row.value if higher else row.value, row.quant.model_bytes))
    return Group(rows=tuple(rows))


def _row(found: Stored, labels: Mapping[str, str]) -> Row | None:
    """Return the row of a run; None if its headline has no value."""
    item = replace(found, record=without_narrow_intervals(found.record))
    record = item.record
    if record.model is None or record.quant is None or record.task is None or not record.metrics:
        return None
    headline = record.metrics[0]
    if headline.value is None:
        return None
    return Row(
        label=labels[record.run_id],
        stored=item,
        model=record.model,
        quant=record.quant,
        task=record.task,
        headline=headline,
        value=headline.value,
    )
