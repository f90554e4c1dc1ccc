"""What records of earlier runs say about a run that is planned.

Records count if model, data, engine and task are configured alike. Their recipes and the number of
their samples may be others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.claims.grouping import Row, comparable
from harness.claims.paired import difference
from harness.claims.row_names import recipe_of
from harness.errors import ResultError
from harness.identity import FIRST_ENGINE, canonical
from harness.messages import plural
from harness.results import names
from harness.results.parts import in_parts
from harness.results.record import Hardware, RunRecord, Status
from harness.results.store import Stored
from harness.stats.difference import Difference

LIMITS: Mapping[str, str] = {
    "limit": "num_questions",
    "limit_windows": "num_windows",
    "limit_documents": "num_documents",
}
"""Option of a task that limits its samples -> the fact of a record that counts them."""
RULES = ("answers", "answer")
"""Options that name the rules of answers; the name of a task says them too."""
NEAR = 2.0
"""Numbers of samples whose ratio is at most this take times in proportion."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """Two runs over the same samples."""

    row: Row
    reference: Row
    difference: Difference


@dataclass(frozen=True, kw_only=True, slots=True)
class Timed:
    """A run on this machine, and how long it took."""

    record: RunRecord
    num_items: int
    """Its questions or tokens."""
    item: str
    """What one of them is."""
    seconds: float
    is_latest: bool
    """Whether no run of these records is newer."""

    @property
    def source(self) -> str:
        """Where the time comes from, in words."""
        which = "the last run" if self.is_latest else "a run"
        size = f"{self.num_items:,} {plural(self.item, self.num_items)}"
        return f"as {which} on file ({recipe_of(self.record)}, {size})"

    def is_near(self, num_items: int) -> bool:
        """Return whether as many samples take a time in proportion."""
        return 1 / NEAR <= num_items / self.num_items <= NEAR

    def seconds_for(self, num_items: int) -> float:
        """Return the time of a run; an upper bound if `num_items` is not near.

        Runs load a model once, and samples share tokens, so a time grows slower than its samples.
        """
        ratio = num_items / self.num_items
        return self.seconds * (max(ratio, 1.0) if ratio < 1 / NEAR else ratio)


def alike(config: Mapping[str, Any], stored: Sequence[Stored]) -> list[Stored]:
    """Return the runs that ended well and are configured alike, oldest first."""
    wanted = _setting(config)
    return [
        item
        for item in stored
        if item.record.status is Status.OK and _setting(item.record.config) == wanted
    ]


def num_units(config: Mapping[str, Any], record: RunRecord) -> int | None:
    """Return the questions, windows or documents of a record; None if it does not count them."""
    key = limit_key(config)
    return None if record.task is None or key is None else record.task.data.get(LIMITS[key])


def limit_key(config: Mapping[str, Any]) -> str | None:
    """Return the option that limits the samples of a configuration's task; None without one."""
    return next((key for key in LIMITS if key in config["task"]), None)


def items_of(record: RunRecord) -> tuple[int, str] | None:
    """Return how many questions or scored tokens a record has, and what they are."""
    for name in (names.NLL, names.KL_MEAN):
        if (metric := record.metric(name)) is not None:
            return metric.n, metric.n_of
    found = record.task.data.get("num_questions") if record.task is not None else None
    return (found, "question") if found else None


def latest_pair(known: Sequence[Stored], task: str, recipe: str | None) -> Pair | None:
    """Return the latest run of a recipe, beside its baseline; None if there are no two.

    Recipes differ from the baseline by as little as 8 bits or as much as 3 make: one says nothing
    about another.

    Args:
        known: Runs that are configured alike.
        task: Name of the task.
        recipe: Name of the recipe; None takes any.
    """
    of_task = [
        part
        for part in in_parts(known)
        if part.record.task is not None and part.record.task.name == task
    ]
    rows = [
        (row, base)
        for group in comparable(of_task)
        if (base := group.baseline) is not None
        for row in group.rows
        if row is not base and recipe in (None, recipe_of(row.stored.record))
    ]
    for row, base in sorted(rows, key=lambda pair: pair[0].stored.record.created, reverse=True):
        try:
            found = difference(row, base)
        except ResultError:  # its samples are lost: reports leave it out too, and say why
            continue
        # Runs that do not differ at all say nothing about runs that do.
        if found is not None and found.smallest_visible():
            return Pair(row=row, reference=base, difference=found)
    return None


def nearest_time(
    known: Sequence[Stored], hardware: Hardware, size: int | None, recipe: str
) -> Timed | None:
    """Return the run on this machine that says most about a time; None if there is none.

    A run of the same recipe counts most, then one of a near number of samples, then the latest.

    Args:
        known: Runs that are configured alike, oldest first.
        hardware: This machine.
        size: Questions or tokens of the run that is planned; None if they are not known.
        recipe: Name of the recipe.
    """
    found = [
        Timed(
            record=item.record,
            num_items=items[0],
            item=items[1],
            seconds=item.record.duration_s,
            is_latest=item is known[-1],
        )
        for item in known
        if item.record.duration_s is not None
        and item.record.provenance.hardware == hardware
        and (items := items_of(item.record)) is not None
    ]

    def worth(each: Timed) -> tuple[bool, bool, object]:
        is_near = size is not None and each.is_near(size)
        return recipe_of(each.record) == recipe, is_near, each.record.created

    return max(found, key=worth, default=None)


def size_of(config: Mapping[str, Any], known: Sequence[Stored], limit: int | None) -> int | None:
    """Return the questions or tokens of a limit, as records of the same text have them.

    Args:
        config: The configuration of the run.
        known: Runs that are configured alike.
        limit: Questions, windows or documents; None is all.
    """
    for item in reversed(known):
        units, items = num_units(config, item.record), items_of(item.record)
        if not units or items is None:
            continue
        if limit is not None:
            return round(items[0] * limit / units)
        if item.record.config["task"].get(limit_key(config)) is None:
            return items[0]
    return None


def _setting(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what runs that are alike have in common."""
    task = config.get("task") or {}
    free = (*LIMITS, *RULES)
    return {
        "model": canonical(config.get("model")),
        "data": canonical(config.get("data")),
        "engine": canonical(config.get("engine") or FIRST_ENGINE),
        "task": canonical({key: value for key, value in task.items() if key not in free}),
    }
