"""Records that may be compared: the same task on the same data, with the same model on the same kind of device.

A comparison between recipes holds everything else fixed. `comparable` puts records into groups in which only the recipe
differs, by their own words: task, version, protocol and data hashes, model fingerprint and type, device and attention,
and every option of task and model. A difference is taken only from the baseline of the same group. What is timed has the
processor, its threads and the GPU in common too.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness.errors import ResultError
from harness.identity import canonical
from harness.report.row_names import row_names
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
from harness.results.store import Stored, identity_of

THROUGHPUT, PARITY = "throughput", "parity"
"""Tasks that measure no quality."""
TIMED = (THROUGHPUT, "throughput_vllm")
"""Tasks that measure speed."""
HASHES = ("sha256", "fingerprint")
"""Ends of the facts that say which data was seen."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A run that ended well, with its parts known to be there."""

    label: str
    """The recipe's name, with what tells it apart; see `row_names`."""
    stored: Stored
    model: ModelInfo
    quant: QuantReport
    task: TaskInfo
    headline: Metric
    value: float

    @property
    def is_baseline(self) -> bool:
        """The float model."""
        # A dequantized GGUF file has float weights too; `model.baseline` shows that it was made of another model.
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
        # With rounded inputs it is another thing than the format of its weights.
        if len(names) != 1 or self.quant.input_formats:
            return None, None
        element, _, granularity = names.pop().rpartition("_")
        return element, granularity

    def metric(self, name: str) -> Metric | None:
        """Return a metric of the run."""
        return self.stored.record.metric(name)


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Runs that differ in the recipe alone, best first."""

    rows: tuple[Row, ...]
    apart: str = ""
    """What tells it from other groups of the same task, model and data, for titles; see `harness.report.titles`."""

    @property
    def model(self) -> ModelInfo:
        """The model they share: the float one, if it was measured."""
        return (self.baseline or self.rows[0]).model

    @property
    def task(self) -> TaskInfo:
        """The task they share."""
        return self.rows[0].task

    @property
    def headline(self) -> Metric:
        """A metric that stands for the group's kind of number."""
        return self.rows[0].headline

    @property
    def baseline(self) -> Row | None:
        """The float model, if it was measured."""
        return next((row for row in self.rows if row.is_baseline), None)

    @property
    def compared_with(self) -> BaselineInfo | ModelInfo:
        """The float model that the group's models were compared with."""
        named = (row.stored.record.baseline for row in self.rows)
        return next((found for found in named if found is not None), self.model)

    @property
    def suffix(self) -> str:
        """The end of a title."""
        return f": {self.apart}" if self.apart else ""

    @property
    def is_quality(self) -> bool:
        """Its numbers say how good a model is."""
        return self.task.name not in (THROUGHPUT, PARITY)

    def find(self, element: str, granularity: str) -> Row | None:
        """Return the row of a format, of those that quantize the same parameters as most rows of one format do.

        The fake-quantized one if it can be had: it has the format and nothing else.
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
    """Return the runs that ended well; of repeated ones only the latest counts."""
    latest = {measured(item): item for item in stored if item.record.status is Status.OK}
    # A text that was not kept may be any: a run with a known one takes its place.
    known = {of for of, text in latest if text is not None}
    return [item for (of, text), item in latest.items() if text is not None or of not in known]


def asked_for(item: Stored) -> tuple[str, Hardware | None]:
    """Return what tells a run from others, however it ended: its configuration and, where speed is measured, the machine."""
    record = item.record
    task = record.task.name if record.task is not None else item.path.parts[-3]
    return identity_of(record), record.provenance.hardware if task in TIMED else None


def measured(item: Stored) -> tuple[Hashable, CalibrationInfo | None]:
    """Return what tells a run that ended well from others: what was asked for, on which weights and data, fitted to which text.

    Weights and data may change under one path. A run on those of before is still on file, and still the baseline of others on them.
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
    """Group the runs of models that ended well, without those that were compared with themselves."""
    groups: dict[str, list[Stored]] = defaultdict(list)
    for item in finished(stored):
        if item.record.model is not None and outdated(item.record) is None:
            groups[_key(item.record)].append(item)
    names = row_names([*groups.values()])
    found = [group for items in groups.values() if (group := _group(items, names)).rows]
    return sorted(found, key=lambda group: (group.model.name, group.task.name, group.task.protocol))


def weights_of(record: RunRecord) -> str | None:
    """Return the fingerprint of the float weights that a record is about."""
    model, base = record.model, record.baseline
    if base is not None and base.relation == "second model":
        return base.fingerprint
    if model is None:
        return None
    return (
        model.baseline or model.fingerprint
    )  # a checkpoint is grouped with the model it was made of


def _key(record: RunRecord) -> str:
    """Return what two records must have in common to be compared."""
    model, task = record.model, record.task
    if model is None or task is None:
        raise ResultError(f"run {record.run_id} must have model and task to be compared")
    # Where data came from does not matter, what it was does.
    facts = {k: v for k, v in task.data.items() if k != "revision"}
    beside = record.baseline.dtype if record.baseline is not None else model.dtype
    dtypes = [model.dtype] if beside == model.dtype else [model.dtype, beside]
    machine = [weights_of(record), dtypes, model.device, model.attention, model.products]
    protocol = [task.name, task.version, task.protocol]
    timed = record.provenance.hardware if task.name in TIMED else ()
    parts = [machine, model.weights, timed, protocol, options(record), facts]
    return json.dumps(parts, sort_keys=True)


def options(record: RunRecord) -> dict[str, Any]:
    """Return every option of the task; those of the model are in its fingerprint and type."""
    return {key: value for key, value in canonical(record.config["task"]).items() if key != "data"}


def _group(items: Sequence[Stored], names: Mapping[str, str]) -> Group:
    rows = [row for item in items if (row := _row(item, names)) is not None]
    higher = bool(rows) and rows[0].headline.higher_is_better
    rows.sort(key=lambda row: (-row.value if higher else row.value, row.quant.model_bytes))
    return Group(rows=tuple(rows))


def _row(found: Stored, names: Mapping[str, str]) -> Row | None:
    item = replace(found, record=without_narrow_intervals(found.record))
    record = item.record
    if record.model is None or record.quant is None or record.task is None or not record.metrics:
        return None
    headline = record.metrics[0]
    if headline.value is None:
        return None
    return Row(
        label=names[record.run_id],
        stored=item,
        model=record.model,
        quant=record.quant,
        task=record.task,
        headline=headline,
        value=headline.value,
    )
