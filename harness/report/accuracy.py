"""What a recipe costs in accuracy, for tables that show what it gains in speed.

The cost is looked up in other records of the folder, of the same weights in the same type:

1. The record of the recipe itself counts first.
2. The record of its fake-quantized form stands in, and is marked, if a parity record says that
   real = fake.
3. Without a parity record, the fake-quantized form stands in only for a backend without options.
   An option makes a backend compute something else, such as smoothing or outliers in float.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from harness.claims.claim import Answered, Claim, reference_value
from harness.claims.grouping import Group, Row
from harness.claims.sentences import shown, verdict_with_margin
from harness.identity import canonical
from harness.results import formatting as figures
from harness.results import names

NOT_MEASURED = "not measured"
RANDOM = "n/a (random weights)"
MEASURES: Mapping[str, tuple[str, ...]] = {
    "perplexity": names.PERPLEXITIES,
    "MMLU": names.MMLU_TASKS,
}
"""Measure -> the tasks that give it, the preferred one first."""


class _Found(NamedTuple):
    """A run that gives a measure."""

    row: Row
    answered: Answered
    is_exact: bool
    """Whether the run has the recipe itself, not its fake-quantized form."""


def accuracy_of(row: Row, answered: Sequence[Answered]) -> dict[str, str]:
    """Return a cell for each measure: value, and paired difference from the baseline."""
    if row.model.weights == "random":
        return dict.fromkeys(MEASURES, RANDOM)
    return {
        measure: _cell(_best(row, answered, tasks), tasks[0]) for measure, tasks in MEASURES.items()
    }


def _best(row: Row, answered: Sequence[Answered], tasks: Sequence[str]) -> _Found | None:
    """Return the run that says most about a recipe, or None.

    A run of the recipe itself comes first, then a run with a baseline, then the preferred task,
    then the run with most samples.
    """
    stands_in = _is_like_fake(row, [each.group for each in answered])
    candidates = [
        _Found(other, each, is_exact)
        for each in answered
        if each.group.task.name in tasks and is_of_model(row, each.group)
        for other in each.group.rows
        if (is_exact := recipe_parts(other) == recipe_parts(row))
        or (stands_in and is_fake_of(other, row))
    ]

    def worth(found: _Found) -> tuple[object, ...]:
        group = found.answered.group
        order = -tasks.index(group.task.name)
        return found.is_exact, group.baseline is not None, order, found.row.headline.n

    return max(candidates, key=worth, default=None)


def is_of_model(row: Row, group: Group) -> bool:
    """Say whether the runs of a group are of a row's model: the same weights in the same type."""
    own, other = row.model, group.model
    return (own.fingerprint, own.dtype, own.weights) == (
        other.fingerprint,
        other.dtype,
        other.weights,
    )


def recipe_parts(row: Row, *without: str) -> dict[str, Any] | str:
    """Return what defines a recipe, except the parts `without`; all baselines are `float`."""
    if row.is_baseline:
        return "float"
    given: dict[str, Any] = canonical(row.stored.record.config["quant"])
    parts = {key: value for key, value in given.items() if key not in ("name", *without)}
    return parts | {"text": row.quant.calibration}


def _is_like_fake(row: Row, groups: Sequence[Group]) -> bool:
    """Say whether its fake-quantized form stands in for a recipe; see the module docstring."""
    if row.quant.kind != "real":
        return False
    measured = [
        within
        for group in groups
        if group.task.name == names.PARITY and is_of_model(row, group)
        for other in group.rows
        if recipe_parts(other) == recipe_parts(row)
        and (within := other.value_of(names.WITHIN_TOLERANCE)) is not None
    ]
    backend: dict[str, Any] = row.stored.record.config["quant"]["backend"]
    return all(measured) if measured else backend.keys() == {"_target_"}


def is_fake_of(other: Row, row: Row) -> bool:
    """Say whether a run is the fake-quantized form of another recipe."""
    is_fake = other.quant.kind == "fake-quant"
    return is_fake and recipe_parts(other, "backend") == recipe_parts(row, "backend")


def _cell(found: _Found | None, preferred: str) -> str:
    if found is None:
        return NOT_MEASURED
    # Tasks of one measure give different figures, such as accuracies by letters and by texts.
    notes = [] if found.row.task.name == preferred else [found.row.task.name]
    if not found.is_exact:
        notes.append(f"of {found.row.label}, its fake-quantized form")
    if found.answered.group.baseline is None:
        notes.append("no baseline")
    elif found.row.is_baseline:
        notes.append("baseline")
    else:
        notes.append(_difference(found.row, found.answered))
    return f"{figures.show(found.row.headline)} ({'; '.join(notes)})"


def _difference(row: Row, answered: Answered) -> str:
    """Return the paired difference with its verdict; the plain one of runs without samples."""
    found = answered.against_baseline[row.stored.record.run_id]
    if isinstance(found, Claim):
        return f"{shown(found)}, {verdict_with_margin(found)}"
    return (
        f"{figures.difference(row.value, reference_value(found), row.headline.unit)}, no interval"
    )
