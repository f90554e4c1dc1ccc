"""Whether a run has the protocol of a published figure, and what to type so that it does.

A run has the protocol if its task and data are those of the figure, and so are all options of the
task. Options that the figure does not name must be off: null or false.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from harness.anchors.schema import Anchor, Option, option_word
from harness.results import names
from harness.results.record import ModelInfo, QuantReport, RunRecord, Status, TaskInfo

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


class MeasuredRun(NamedTuple):
    """A run of a model that ended well."""

    record: RunRecord
    model: ModelInfo
    quant: QuantReport
    task: TaskInfo


class Sample(NamedTuple):
    """Questions that were drawn from all."""

    num_questions: int
    num_available: int


def measured_run(record: RunRecord) -> MeasuredRun | None:
    """Return a run with its parts; None if it has no model, or did not end well."""
    model, quant, task = record.model, record.quant, record.task
    if record.status is not Status.OK or model is None or quant is None or task is None:
        return None
    return MeasuredRun(record, model, quant, task)


def changes_to(anchor: Anchor, run: MeasuredRun) -> Iterator[str]:
    """Yield the words that the command of a run needs to have the protocol of a figure."""
    table = anchor.table
    if table.task is None:
        return
    yield from anchor.words if table.task != run.task.name else _options_to(anchor, run)
    # Tasks that bring their own data have no name of it.
    if table.data is not None and run.task.data.get("name") not in (None, table.data):
        yield "data=hub"
    if anchor.published.revision not in (None, run.model.revision):
        yield f"model.revision={anchor.published.revision}"


def _options_to(anchor: Anchor, run: MeasuredRun) -> Iterator[str]:
    given, options = _options(run), anchor.table.options
    for key in sorted({*options, *given} - NO_PROTOCOL):
        expected = options.get(key)
        is_drawn = key == DRAWN and expected is None and run.task.name in names.MMLU_TASKS
        if not is_drawn and _plain(given.get(key)) != _plain(expected):
            yield option_word(key, expected)


def _options(run: MeasuredRun) -> Mapping[str, Any]:
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


def drawn_questions(task: TaskInfo) -> Sample | None:
    """Return how many questions were drawn; None if all were asked, and for a text."""
    asked, available = task.data.get("num_questions"), task.data.get("num_available")
    if not isinstance(asked, int) or not isinstance(available, int) or asked >= available:
        return None
    return Sample(asked, available)
