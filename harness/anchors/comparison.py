"""Compares a run with the published figures of its model and recipe.

If the protocol is the same (`harness.anchors.protocol`), both are about the same tokens or
questions, and they may differ by the tolerance. The sampling interval does not count: it is about
other texts.

A run on questions that were drawn at random is the exception. It reproduces a figure of all
questions if its 95 % interval, widened by the tolerance, holds the figure.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from harness.anchors.files import anchors
from harness.anchors.protocol import MeasuredRun, Sample, changes_to, drawn_questions, measured_run
from harness.anchors.published_model import PublishedModel, published_model
from harness.anchors.schema import Anchor
from harness.results import names
from harness.results.record import Metric, RunRecord


class Agreement(StrEnum):
    """How a run compares with a published figure."""

    REPRODUCES = "reproduces"
    DIFFERS = "does not reproduce"
    NOT_COMPARABLE = "cannot be compared"


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


def findings(record: RunRecord, known: Sequence[Anchor] | None = None) -> list[Finding]:
    """Return the published figures that a run can be compared with, and how it compares.

    If there are none, figures of the same kind under other protocols are returned.

    Args:
        record: The record of a run.
        known: Published figures; by default all of `conf/anchors`.
    """
    if (run := measured_run(record)) is None or (named := published_model(run.model)) is None:
        return []
    published = anchors() if known is None else known
    own = [each for each in published if _is_of(each, named, run)]
    found = [finding for each in own if (finding := _compared(each, named, run)) is not None]
    return [each for each in found if each.agreement is not Agreement.NOT_COMPARABLE] or found


def _is_of(anchor: Anchor, named: PublishedModel, run: MeasuredRun) -> bool:
    """Say whether a figure is of the model and the recipe of a run."""
    published = anchor.published
    if published.model.lower() != named.name.lower():
        return False
    if run.quant.kind == "none":
        return published.quantization is None
    return published.recipe is not None and published.recipe == run.record.recipe


def _compared(anchor: Anchor, named: PublishedModel, run: MeasuredRun) -> Finding | None:
    """Compare a run with a figure; None if there is nothing to say."""
    if not _is_of_one_kind(anchor, run):
        return None
    changes = tuple(changes_to(anchor, run))
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
    sample = drawn_questions(run.task)
    exact = (metric.value, metric.value)
    low, high = exact if sample is None else metric.ci95 or exact
    gap = max(low - anchor.published.value, anchor.published.value - high)
    # 6.24 - 6.22 is more than 0.02 in binary.
    agrees = gap <= anchor.tolerance or math.isclose(gap, anchor.tolerance)
    return Finding(
        anchor=anchor,
        agreement=Agreement.REPRODUCES if agrees else Agreement.DIFFERS,
        metric=metric,
        sample=sample,
    )


def _is_of_one_kind(anchor: Anchor, run: MeasuredRun) -> bool:
    """Say whether a run measures what a figure is about, perhaps under another protocol."""
    table, task = anchor.table, run.task.name
    if table.task == task and run.record.metric(table.metric) is not None:
        return True
    if table.metric.endswith(names.PERPLEXITY):
        return any(metric.name.endswith(names.PERPLEXITY) for metric in run.record.metrics)
    return table.task in names.MMLU_TASKS and task in names.MMLU_TASKS
