"""What is claimed of a recipe that is fitted to a text, over its calibration seeds.

Runs of a group that differ in the seed of the calibration alone are one recipe. What one fit shows
may be luck of its draw: a claim about the recipe takes 3 seeds or more, and its interval has their
deviation (`harness.stats.seeds`). With fewer, each run speaks of its own calibration alone.
"""

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness.claims.claim import Answered, Claim, Comparison, corrected
from harness.claims.grouping import Group, Row
from harness.claims.measure import measure_of
from harness.claims.paired import items_of
from harness.claims.row_names import row_names
from harness.claims.sentences import sentence, spread_in_unit
from harness.errors import ResultError
from harness.identity import canonical, class_name
from harness.messages import plural
from harness.results.record import CalibrationInfo
from harness.stats.difference import Difference
from harness.stats.seeds import MIN_SEEDS, SeedsDifference, answers_over_seeds, over_seeds

SEED = re.compile(r"(backend\.)?calibration\.seed=\d+")
"""A changed seed in the name of a recipe; see `harness.cli.recipe_name`."""
CALIBRATION = "CalibrationSet"
"""Class in a configuration whose seed draws the calibration text."""
ALONE = f"this holds for this calibration alone; a claim about the recipe takes {MIN_SEEDS} seeds"


@dataclass(frozen=True, kw_only=True, slots=True)
class Fitted:
    """A recipe of a group with all of its calibration seeds."""

    group: Group
    label: str
    """Name of the recipe, without the seed."""
    rows: tuple[Row, ...]
    """A run of each seed, in the order of the seeds."""
    comparison: Comparison | None
    """Comparison of the mean over seeds with the baseline; it has a test if there are enough seeds.
    None without a baseline."""

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of the runs."""
        return tuple(map(_seed, self.rows))

    @property
    def has_enough(self) -> bool:
        """Whether there are enough seeds for a claim."""
        return len(self.rows) >= MIN_SEEDS

    @property
    def deviation(self) -> str | None:
        """Deviation of the difference between seeds, in words; None for one seed."""
        if not isinstance(self.comparison, Claim):
            return None
        found = self.comparison.difference
        if not isinstance(found, SeedsDifference) or found.deviation is None:
            return None
        return spread_in_unit(self.comparison, found.deviation)

    @property
    def sentence(self) -> str | None:
        """The claim about the recipe in a sentence; None with too few seeds or no baseline."""
        if self.comparison is None or not self.has_enough:
            return None
        spread = f"; deviation between seeds {self.deviation}" if self.deviation else ""
        return f"{sentence(self.comparison)}{spread}"


def fitted(answered: Sequence[Answered]) -> list[Fitted]:
    """Return the recipes of each group that are fitted to a text.

    A family is the recipes of a group.
    """
    sets = [(each, _by_seed(each.group)) for each in answered if measure_of(each.group.task.name)]
    # A name is one recipe's in the whole report, like those of the rows.
    labels = row_names(
        [[_without_seed(rows[0]).stored for rows in of_group] for _, of_group in sets]
    )
    return [found for each, of_group in sets for found in _family(each, of_group, labels)]


def of_run(found: Sequence[Fitted], run_id: str) -> Fitted | None:
    """Return the recipe that a run is of; None for a run that a later one of its seed replaces."""
    runs = {row.stored.record.run_id: each for each in found for row in each.rows}
    return runs.get(run_id)


def _by_seed(group: Group) -> list[tuple[Row, ...]]:
    """Return the runs of each fitted recipe, one for each seed; of repeated seeds the latest."""
    sets: dict[str, dict[int, Row]] = defaultdict(dict)
    for row in sorted(group.rows, key=lambda row: row.stored.record.created):
        if row.quant.calibration is not None:
            sets[_recipe(row)][_seed(row)] = row
    return [tuple(of_seed[seed] for seed in sorted(of_seed)) for of_seed in sets.values()]


def _family(
    answered: Answered, sets: Sequence[tuple[Row, ...]], labels: Mapping[str, str]
) -> list[Fitted]:
    base = answered.group.baseline
    names = [labels[rows[0].stored.record.run_id] for rows in sets]
    compared: Sequence[Comparison | None] = [None] * len(sets)
    if base is not None:
        found = [
            (_mean_row(name, rows), base, _difference(rows, base))
            for name, rows in zip(names, sets, strict=True)
        ]
        compared = corrected(found, floor=answered.floor_size)
    return [
        Fitted(group=answered.group, label=name, rows=rows, comparison=each)
        for name, rows, each in zip(names, sets, compared, strict=True)
    ]


def _difference(rows: Sequence[Row], base: Row) -> Difference | str:
    """Return the paired difference of the mean over seeds, or why there is none."""
    try:
        found = [items for row in rows if (items := items_of(row, base)) is not None]
    except ResultError as reason:
        return str(reason)
    if len(found) < len(rows):
        return "these runs have no samples to pair"
    why = next((items.why_no_test for items in found if items.why_no_test is not None), None)
    if why is not None:
        return why
    answers = [items.answers for items in found if items.answers is not None]
    sums = [items.sums for items in found]
    return answers_over_seeds(answers, sums) if answers else over_seeds(sums)


def _mean_row(label: str, rows: Sequence[Row]) -> Row:
    """Return a row that stands for all seeds: the first, with the recipe's name."""
    num = len(rows)
    return replace(rows[0], label=f"{label} over {num} calibration {plural('seed', num)}")


def _text(row: Row) -> CalibrationInfo:
    assert row.quant.calibration is not None  # noqa: S101 - its recipe is fitted to a text
    return row.quant.calibration


def _seed(row: Row) -> int:
    return _text(row).seed


def _recipe(row: Row) -> str:
    """Return what two runs of one recipe have in common, whatever their seeds, as text."""
    found = _without_seed(row)
    quant = canonical(found.stored.record.config.get("quant") or {})
    named = {key: value for key, value in quant.items() if key != "name"}
    return json.dumps((named, _text(found).model_dump()), sort_keys=True, default=str)


def _without_seed(row: Row) -> Row:
    """Return a row that does not say with which seed its text was drawn."""
    record = row.stored.record
    text = _text(row).model_copy(update={"seed": 0})
    name = _unseeded(row.quant.name)
    quant = row.quant.model_copy(update={"name": name, "calibration": text})
    config = record.config | {"quant": _undrawn(record.config.get("quant") or {})}
    changed = record.model_copy(update={"config": config, "quant": quant})
    return replace(row, quant=quant, stored=replace(row.stored, record=changed))


def _unseeded(name: str) -> str:
    """Return the name of a recipe without the seed that was typed, if any.

    Example:
        `w8a8_static (calibration.length=256)` of
        `w8a8_static (calibration.length=256, calibration.seed=1)`.
    """
    plain, _, words = name.partition(" (")
    kept = [word for word in words.removesuffix(")").split(", ") if not SEED.fullmatch(word)]
    return f"{plain} ({', '.join(kept)})" if any(kept) else plain


def _undrawn(node: Any) -> Any:
    """Return a configuration without the seeds of its calibration sets."""
    if isinstance(node, list | tuple):
        return [_undrawn(value) for value in node]
    if not isinstance(node, Mapping):
        return node
    is_drawn = class_name(node.get("_target_", "")) == CALIBRATION
    return {k: _undrawn(v) for k, v in node.items() if not (is_drawn and k == "seed")}
