"""Compares a run with the published figures of its model and recipe.

A run has the protocol of a figure if its task and data are the same, and all options of the task
are those of the figure. Then both are about the same tokens or questions, and they may differ by
the tolerance. The sampling interval does not count: it is about other texts.

A run on questions that were drawn at random is the exception. It reproduces a figure of all
questions if its 95 % interval, widened by the tolerance, holds the figure.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

from harness.anchors.files import anchors
from harness.anchors.published_model import PublishedModel, published_model
from harness.anchors.schema import Anchor, Option, option_word
from harness.results import names
from harness.results.record import Metric, ModelInfo, QuantReport, RunRecord, Status, TaskInfo

NO_PROTOCOL = frozenset(
    {
        *("_target_", "data", "segmentation", "answer", "answers"),  # the name of the task says it
        *("tasks", "include_path"),  # the name of the metric says it
        *("seed", "batch_size", "batch_tokens"),
    }
)
"""Options of tasks that are not a part of the protocol."""
DRAWN = "limit"
"""The option of MMLU that draws questions at random. Other tasks take the first ones."""


class Agreement(StrEnum):
    """How a run compares with a published figure."""

    REPRODUCES = "reproduces"
    DIFFERS = "does not reproduce"
    NOT_COMPARABLE = "cannot be compared"


class Sample(NamedTuple):
    """Questions that were drawn from all."""

    num_questions: int
    num_available: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """A published figure beside a run."""

    anchor: Anchor
    agreement: Agreement
    metric: Metric | None = None
    """The figure of the run, which has a value; None if both cannot be compared."""
    sample: Sample | None = None
    """The questions of a run that did not ask all of them."""
    changes: tuple[str, ...] = ()
    """Words of the command line that give a run the protocol of the figure."""
    origin: str | None = None
    """What the weights of the run are, if they are not the published ones."""


class _Run(NamedTuple):
    """The parts of a record that are not None in a finished run of a model."""

    record: RunRecord
    model: ModelInfo
    quant: QuantReport
    task: TaskInfo


def findings(record: RunRecord, known: Sequence[Anchor] | None = None) -> list[Finding]:
    """Return the published figures that a run can be compared with, and how it compares.

    If there are none, figures of the same kind under other protocols are returned.

    Args:
        record: The record of a run.
        known: Published figures; by default all of `conf/anchors`.
    """
    model, quant, task = record.model, record.quant, record.task
    if record.status is not Status.OK or model is None or quant is None or task is None:
        return []
    run, named = _Run(record, model, quant, task), published_model(model)
    if named is None:
        return []
    published = anchors() if known is None else known
    own = [each for each in published if _is_of(each, named, run)]
    found = [finding for each in own if (finding := _compared(each, named, run)) is not None]
    return [each for each in found if each.agreement is not Agreement.NOT_COMPARABLE] or found


def _is_of(anchor: Anchor, named: PublishedModel, run: _Run) -> bool:
    """Say whether a figure is of the model and the recipe of a run."""
    published = anchor.published
    if published.model.lower() != named.name.lower():
        return False
    if run.quant.kind == "none":
        return published.quantization is None
    return published.recipe is not None and published.recipe == run.record.recipe


def _compared(anchor: Anchor, named: PublishedModel, run: _Run) -> Finding | None:
    """Compare a run with a figure; None if there is nothing to say."""
    if not _is_of_one_kind(anchor, run):
        return None
    changes = tuple(_changes(anchor, run))
    if not named.is_exact:
        # Another protocol with other weights: they have nothing in common.
        if changes or anchor.table.task is None:
            return None
        return Finding(anchor=anchor, agreement=Agreement.NOT_COMPARABLE, origin=run.model.origin)
    if changes or anchor.table.task is None:
        return Finding(anchor=anchor, agreement=Agreement.NOT_COMPARABLE, changes=changes)
    metric = run.record.metric(anchor.table.metric)
    if metric is None or metric.value is None:
        return None
    sample = _sample(run.task)
    exact = (metric.value, metric.value)
    low, high = exact if sample is None else metric.ci95 or exact
    agrees = low - anchor.tolerance <= anchor.published.value <= high + anchor.tolerance
    return Finding(
        anchor=anchor,
        agreement=Agreement.REPRODUCES if agrees else Agreement.DIFFERS,
        metric=metric,
        sample=sample,
    )


def _is_of_one_kind(anchor: Anchor, run: _Run) -> bool:
    """Say whether a run measures what a figure is about, perhaps under another protocol."""
    table, task = anchor.table, run.task.name
    if table.task == task and run.record.metric(table.metric) is not None:
        return True
    if table.metric.endswith(names.PERPLEXITY):
        return any(metric.name.endswith(names.PERPLEXITY) for metric in run.record.metrics)
    return table.task in names.MMLU_TASKS and task in names.MMLU_TASKS


def _changes(anchor: Anchor, run: _Run) -> Iterator[str]:
    """Yield the words that a command line needs to have the protocol of a figure."""
    table = anchor.table
    if table.task is None:
        return
    if table.task != run.task.name:
        yield from anchor.words
        return
    given = _options(run)
    for key in sorted({*table.options, *given} - NO_PROTOCOL):
        expected = table.options.get(key)
        is_drawn = key == DRAWN and expected is None and run.task.name in names.MMLU_TASKS
        if not is_drawn and _plain(given.get(key)) != _plain(expected):
            yield option_word(key, expected)
    if table.data is not None and run.task.data.get("name") != table.data:
        yield "data=hub"
    if anchor.published.revision not in (None, run.model.revision):
        yield f"model.revision={anchor.published.revision}"


def _options(run: _Run) -> Mapping[str, Any]:
    """Return the options of a run's task; MMLU's own number of examples in the place of null."""
    given = run.record.config.get("task")
    options = dict(given) if isinstance(given, Mapping) else {}
    if run.task.name in names.MMLU_TASKS:
        options["shots"] = run.task.data.get("num_shots", options.get("shots"))
    return options


def _plain(value: Option | list[str] | None) -> Option | None:
    """Return a value for a comparison: false is null, a list is a tuple."""
    if isinstance(value, list):
        return tuple(value)
    return None if value is False else value


def _sample(task: TaskInfo) -> Sample | None:
    """Return how many questions were drawn; None if all were asked, and for a text."""
    asked, available = task.data.get("num_questions"), task.data.get("num_available")
    if not isinstance(asked, int) or not isinstance(available, int) or asked >= available:
        return None
    return Sample(asked, available)
