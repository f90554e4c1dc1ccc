"""Records that may be compared: the same task on the same data, with the same model on the same kind of device.

A comparison between recipes holds everything else fixed. `comparable` puts records into groups in which only the recipe
differs, by their own words: task, version, protocol and data hashes, model fingerprint and type, device and attention,
and every option of task and model. A difference is taken only from the baseline of the same group.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from harness.errors import ResultError
from harness.results.record import Metric, ModelInfo, QuantReport, RunRecord, Status, TaskInfo
from harness.results.store import Stored


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A run that ended well, with its parts known to be there."""

    label: str
    stored: Stored
    model: ModelInfo
    quant: QuantReport
    task: TaskInfo
    headline: Metric
    value: float

    @property
    def is_baseline(self) -> bool:
        """The float model."""
        return self.quant.kind == "none"

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
        if len(names) != 1:
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

    @property
    def model(self) -> ModelInfo:
        """The model they share."""
        return self.rows[0].model

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

    def find(self, element: str, granularity: str) -> Row | None:
        """Return the row of a format."""
        return next(
            (r for r in self.rows if (r.element, r.granularity) == (element, granularity)), None
        )


def finished(stored: Sequence[Stored]) -> list[Stored]:
    """Return the runs that ended well; of repeated ones only the latest counts."""
    latest = {item.record.config_hash: item for item in stored if item.record.status is Status.OK}
    return list(latest.values())


def comparable(stored: Sequence[Stored]) -> list[Group]:
    """Group the runs of models that ended well."""
    groups: dict[str, list[Stored]] = defaultdict(list)
    for item in finished(stored):
        if item.record.model is not None:
            groups[_key(item.record)].append(item)
    found = [_group(items) for items in groups.values()]
    return sorted(found, key=lambda group: (group.model.name, group.task.name, group.task.protocol))


def _key(record: RunRecord) -> str:
    """Return what two records must have in common to be compared."""
    model, task = record.model, record.task
    if model is None or task is None:
        raise ResultError(f"run {record.run_id} must have model and task to be compared")
    options = {
        part: {k: v for k, v in record.config[part].items() if k != "data"}
        for part in ("model", "task")
    }
    # Where data came from does not matter, what it was does.
    facts = {k: v for k, v in task.data.items() if k != "revision"}
    machine = [model.fingerprint, model.dtype, model.device, model.attention, model.products]
    protocol = [task.name, task.version, task.protocol]
    return json.dumps([machine, protocol, options, facts], sort_keys=True)


def _group(items: Sequence[Stored]) -> Group:
    names = Counter(item.record.quant.name for item in items if item.record.quant)
    rows = [row for item in items if (row := _row(item, names)) is not None]
    higher = rows[0].headline.higher_is_better
    rows.sort(key=lambda row: (-row.value if higher else row.value, row.quant.model_bytes))
    return Group(rows=tuple(rows))


def _row(item: Stored, names: Counter[str]) -> Row | None:
    record = item.record
    if record.model is None or record.quant is None or record.task is None or not record.metrics:
        return None
    headline = record.metrics[0]
    if headline.value is None:
        return None
    label = record.quant.name
    if names[label] > 1:  # recipes that were changed on the command line share a name
        label += f" ({record.config_hash[:6]})"
    return Row(
        label="baseline" if label == "none" else label,
        stored=item,
        model=record.model,
        quant=record.quant,
        task=record.task,
        headline=headline,
        value=headline.value,
    )
