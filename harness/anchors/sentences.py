"""A published figure beside a run, in one sentence."""

from collections.abc import Sequence

from harness.anchors.comparison import Agreement, Finding, findings
from harness.anchors.schema import Anchor
from harness.results import formatting as figures
from harness.results.record import Metric, RunRecord, Unit

PARTS = ("task.limit", "task.subjects")
"""Beginnings of the options that take a part of the data."""


def check(record: RunRecord, known: Sequence[Anchor] | None = None) -> list[str]:
    """Return a sentence for each published figure of a run's model; see `findings`."""
    return [sentence(finding) for finding in findings(record, known)]


def sentence(finding: Finding) -> str:
    """Return what a comparison with a published figure says, in one sentence."""
    if finding.metric is None:
        return _not_comparable(finding)
    if finding.sample is not None:
        return _of_sample(finding, finding.metric)
    return _of_all(finding, finding.metric)


def figure(anchor: Anchor, unit: Unit | None = None) -> str:
    """Return a figure with its source, such as `perplexity 6.24 (llm-compressor, README.md)`.

    Args:
        anchor: The figure.
        unit: Its unit, if a run says it; a fraction is then a percentage.
    """
    value = anchor.published.value
    shown = figures.share(value) if unit is Unit.FRACTION else f"{value:.10g}"
    return f"{anchor.table.metric.replace('_', ' ')} {shown} ({anchor.table.source})"


def _not_comparable(finding: Finding) -> str:
    anchor = finding.anchor
    begin = f"Cannot be compared with the published {figure(anchor)}"
    if finding.origin is not None:
        model = anchor.published.model
        return (
            f"{begin}: the weights of this run are not those of {model} but a conversion, "
            f"{finding.origin}; model=hub model.repo={model} has the published ones."
        )
    if not finding.changes:
        return f"{begin}: no task here has its protocol ({anchor.table.protocol})."
    is_part = all(word.startswith(PARTS) for word in finding.changes)
    why = "is over all of the data" if is_part else "has another protocol"
    return f"{begin}, which {why}; repeat with {' '.join(finding.changes)}."


def _of_all(finding: Finding, metric: Metric) -> str:
    anchor, value = finding.anchor, metric.value or 0.0
    difference = figures.difference(value, anchor.published.value, metric.unit)
    tolerance = _size(anchor.tolerance, metric.unit)
    if finding.agreement is Agreement.REPRODUCES:
        return (
            f"Reproduces the published {figure(anchor, metric.unit)}: the difference is "
            f"{difference}, the tolerance {tolerance}."
        )
    return (
        f"Does not reproduce the published {figure(anchor, metric.unit)}: the difference is "
        f"{difference}, the tolerance {tolerance} ({anchor.why})."
    )


def _of_sample(finding: Finding, metric: Metric) -> str:
    anchor, sample = finding.anchor, finding.sample
    assert sample is not None  # noqa: S101 - the caller asked
    drawn = f"{sample.num_questions:,} of {sample.num_available:,} questions"
    interval = f"the 95 % interval {figures.show_interval(metric)}"
    if finding.agreement is Agreement.REPRODUCES:
        return (
            f"Reproduces the published {figure(anchor, metric.unit)} as far as {drawn} can tell: "
            f"{interval} holds it; task.limit=null asks all."
        )
    return (
        f"Does not reproduce the published {figure(anchor, metric.unit)}: on {drawn}, {interval} "
        "does not hold it."
    )


def _size(tolerance: float, unit: Unit) -> str:
    return f"{100 * tolerance:.3g} pp" if unit is Unit.FRACTION else f"{tolerance:.3g}"
