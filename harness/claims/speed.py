"""What is claimed of the speed of a recipe: faster than the unquantized model, slower, or neither.

A run of `task=throughput` times a recipe and the unquantized model in turns, so the comparison lies
in one record. There is a claim for each phase, and for each way in which the unquantized model
multiplied (`harness.results.float_paths`):

    ratio       median time of the unquantized model / median time of the recipe, with its interval
                by a bootstrap over rounds, as on file
    p           Wilcoxon's signed ranks of the rounds' log-ratios (`harness.stats.rounds`)
    family      all claims about one phase in a group, corrected by Holm
    verdict     faster or slower where p < 0.05 and the interval excludes 1, else cannot tell

A run whose unquantized model drifted by more than 3 % between the first rounds and the last is
unstable. Its rounds were not all made under one condition, and the ratio may have moved with them:
its interval must then exclude 1 by more than the drift.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TypeAlias

import pandas as pd

from harness.claims.grouping import Group, Row
from harness.errors import ResultError
from harness.results import names
from harness.results.float_paths import WAYS, Way
from harness.results.record import Metric
from harness.results.store import read_samples
from harness.stats.difference import ALPHA
from harness.stats.families import holm
from harness.stats.rounds import MOST_DRIFT, least_p, signed_rank

SUBJECTS: Mapping[Way, str] = {"native": "float", "float32": "float32_products"}
"""Way of the unquantized model -> its name in the ids of samples."""

NO_ROUNDS = "no test: the record does not have the times of its rounds; repeat the run"


class SpeedVerdict(StrEnum):
    """What the rounds have shown."""

    FASTER = "faster"
    SLOWER = "slower"
    CANNOT_TELL = "cannot tell"


@dataclass(frozen=True, kw_only=True, slots=True)
class Speed:
    """What a record says of the speed of its recipe in one phase, beside one way."""

    row: Row
    phase: str
    """`decode` or `prefill`."""
    way: Way
    """How the unquantized model multiplied."""
    ratio: Metric
    """Speed over that of the unquantized model; it has a value."""
    own_p: float | None
    """p-value of "equally fast" by itself; None without a test."""
    p: float | None = None
    """The same, corrected by Holm for the family."""
    num_tests: int = 0
    """Tests of the family."""
    untested: str | None = None
    """Why there is no test; None if there is one."""

    @property
    def drift(self) -> float:
        """Relative drift of an unstable run; 0 for a stable one."""
        drift = self.row.value_of(names.BASELINE_DRIFT) or 0.0
        return abs(drift) if abs(drift) > MOST_DRIFT else 0.0

    @property
    def unstable(self) -> str | None:
        """That the run is unstable, in words; None for a stable run."""
        if not self.drift:
            return None
        return f"the run is unstable, the unquantized model drifted by {100 * self.drift:.1f} %"

    @property
    def direction(self) -> SpeedVerdict:
        """The side of 1 on which the interval lies, by more than the drift of an unstable run."""
        if self.ratio.ci95 is not None:
            low, high = self.ratio.ci95
            if low > 1 + self.drift:
                return SpeedVerdict.FASTER
            if high < 1 / (1 + self.drift):
                return SpeedVerdict.SLOWER
        return SpeedVerdict.CANNOT_TELL

    @property
    def verdict(self) -> SpeedVerdict:
        """The verdict; see the module docstring."""
        is_shown = self.p is not None and self.p < ALPHA
        return self.direction if is_shown else SpeedVerdict.CANNOT_TELL

    @property
    def why_not(self) -> str | None:
        """Why nothing can be told, where it is not the rounds themselves; else None."""
        if self.untested is not None or self.verdict is not SpeedVerdict.CANNOT_TELL:
            return self.untested
        if least_p(self.ratio.n) * self.num_tests >= ALPHA:
            return f"{self.ratio.n} rounds are too few for {self.num_tests} comparisons"
        return self.unstable


Claims: TypeAlias = Mapping[tuple[str, Way], Speed]
"""The claims of a run, by phase and way."""


def speeds(group: Group) -> list[Speed]:
    """Return the claims about the recipes of a group of timed runs; none for other tasks."""
    if group.task.name != names.THROUGHPUT:
        return []
    found = [speed for row in group.rows for speed in _speeds(row)]
    return [each for phase in names.PHASES for each in _corrected(found, phase)]


def of_run(found: Sequence[Speed], run_id: str) -> Claims:
    """Return the claims of a run."""
    own = (each for each in found if each.row.stored.record.run_id == run_id)
    return {(each.phase, each.way): each for each in own}


def _corrected(found: Sequence[Speed], phase: str) -> list[Speed]:
    """Return the claims about a phase with their corrected p-values."""
    family = [each for each in found if each.phase == phase]
    p_values = [each.own_p for each in family if each.own_p is not None]
    corrected = iter(holm(p_values))
    return [
        replace(each, p=None if each.own_p is None else next(corrected), num_tests=len(p_values))
        for each in family
    ]


def _speeds(row: Row) -> Iterator[Speed]:
    """Yield the claims of a record, not yet corrected."""
    found = [
        (phase, way, ratio)
        for phase in names.PHASES
        for way, end in WAYS.items()
        if (ratio := row.metric(f"{phase}{end}")) is not None and ratio.value is not None
    ]
    if not found:
        return
    samples = _samples(row)
    for phase, way, ratio in found:
        tested = samples if isinstance(samples, str) else _p(samples, phase, way)
        yield Speed(
            row=row,
            phase=phase,
            way=way,
            ratio=ratio,
            own_p=None if isinstance(tested, str) else tested,
            untested=tested if isinstance(tested, str) else None,
        )


def _samples(row: Row) -> "pd.Series[float] | str":
    """Return the times of a record by the ids of its samples [s], or why there are none."""
    try:
        samples = read_samples(row.stored)
    except ResultError as reason:
        return f"no test: {reason}"
    if not {"id", "seconds"} <= set(samples):
        return NO_ROUNDS
    return samples.set_index("id")["seconds"]


def _p(samples: "pd.Series[float]", phase: str, way: Way) -> float | str:
    """Return the p-value of "equally fast", or why there is none."""
    float_s, recipe_s = (_rounds(samples, name, phase) for name in (SUBJECTS[way], "recipe"))
    paired = pd.concat([float_s, recipe_s], axis=1, join="inner").to_numpy()
    if not len(paired):
        return NO_ROUNDS
    return signed_rank(paired[:, 0], paired[:, 1])


def _rounds(samples: "pd.Series[float]", subject: str, phase: str) -> "pd.Series[float]":
    """Return the times of a phase by the number of the round, as text [s]."""
    found = samples.index.str.extract(rf"^{subject}/round/(\d+)/{phase}$", expand=False)
    return samples.set_axis(found)[found.notna()]
