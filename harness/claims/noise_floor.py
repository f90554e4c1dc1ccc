"""The noise floor: how much results change without any quantization.

A record of the task `noise_floor` compares the unquantized model with itself: in other batches,
with another attention kernel, in another type. A difference between recipes that is not larger
says nothing about the recipes.
"""

from collections.abc import Sequence
from typing import NamedTuple

from harness.claims.grouping import Group, Row, weights_of
from harness.claims.measure import ACCURACY, KL, LOG_LOSS, Measure
from harness.results import formatting as figures
from harness.results import names

SAME_TYPE = ("batch", "attention")
"""Variants that change only the order of sums. The variant `dtype` changes the arithmetic."""

MIN_QUESTIONS = 100
"""Fewer questions give no noise floor: one flip of 20 would be a share of 5 %."""


class Floor(NamedTuple):
    """The noise floor of one model on one kind of device."""

    row: Row
    """The run on the longest text."""
    asked: Row | None = None
    """The run on the most questions; None if no run asked any."""

    @property
    def variants(self) -> list[str]:
        """Names of the changes that were measured."""
        found = (metric.name.partition("/")[0] for metric in self.row.stored.record.metrics)
        return list(dict.fromkeys(found))

    @property
    def least(self) -> float:
        """Largest change of the mean log-loss by the order of sums alone [nat/token]."""
        return _largest(self.row, names.LN_PPL_RATIO)

    @property
    def divergence(self) -> float:
        """Largest mean KL divergence by the order of sums alone [nat/token]."""
        return _largest(self.row, names.KL_MEAN)

    @property
    def flips(self) -> float | None:
        """Largest share of letters that flip by the order of sums alone; None if none was asked.

        It limits generated and cloze answers too, which have no measurement of their own.
        """
        return None if self.asked is None else _largest(self.asked, names.FLIPS)

    def of(self, measure: Measure | None) -> float | None:
        """Return the noise floor in the unit of an item; None for a measure that has none."""
        if measure is LOG_LOSS:
            return self.least
        if measure is ACCURACY:
            return self.flips
        return self.divergence if measure is KL else None

    def value(self, variant: str, name: str) -> float | None:
        """Return the value of a metric of a variant."""
        return self.row.value_of(f"{variant}/{name}")

    def line_of(self, measure: Measure | None) -> str | None:
        """Return the noise floor of a measure in one sentence; None if it has none."""
        if measure is ACCURACY:
            return None if self.asked is None else self._line_of_answers(self.asked)
        return self.line() if measure is LOG_LOSS else None

    def _line_of_answers(self, asked: Row) -> str:
        return (
            "Noise floor, the unquantized model against itself: up to "
            f"{100 * _largest(asked, names.FLIPS):.2g} % of {_num_asked(asked):,} answers by "
            "letter flip by another order of sums."
        )

    def line(self) -> str:
        """Return the noise floor in one sentence."""
        shown = [
            f"{variant}: KL {self.value(variant, names.KL_MEAN):.1e}, ln PPL ratio "
            f"{self.value(variant, names.LN_PPL_RATIO):+.1e}"
            for variant in self.variants
        ]
        return (
            f"Noise floor, the unquantized model against itself on "
            f"{figures.count(self.row.headline)}: {'; '.join(shown)} (nat/token)."
        )


def floor_of(group: Group, groups: Sequence[Group]) -> Floor | None:
    """Return the noise floor of a group's model; None if it was not measured.

    Of several measurements the longest counts, and of those with answers the one on the most
    questions. A run that could change the type alone says nothing about the order of sums. The
    attention kernel of the group does not count: the noise floor was measured over both kernels.
    """
    rows = [
        row
        for other in groups
        for row in other.rows
        if other.task.name == names.NOISE_FLOOR and _setting(row) == _setting(group.rows[0])
    ]
    of_text = [row for row in rows if _values(row, names.LN_PPL_RATIO)]
    if not of_text:
        return None
    return Floor(max(of_text, key=lambda row: row.headline.n), most_asked(rows))


def most_asked(rows: Sequence[Row]) -> Row | None:
    """Return the noise floor that was measured on the most questions; None if none asked enough."""
    asked = [row for row in rows if _num_asked(row) >= MIN_QUESTIONS]
    return max(asked, key=_num_asked) if asked else None


def _num_asked(row: Row) -> int:
    found = (row.metric(f"{variant}/{names.FLIPS}") for variant in SAME_TYPE)
    return max((metric.n for metric in found if metric is not None), default=0)


def _largest(row: Row, name: str) -> float:
    """Return the largest size of a metric by the order of sums alone."""
    return max(abs(value) for value in _values(row, name))


def _values(row: Row, name: str) -> list[float]:
    """Return a metric of the variants that change only the order of sums, where it is known."""
    found = (row.value_of(f"{variant}/{name}") for variant in SAME_TYPE)
    return [value for value in found if value is not None]


def _setting(row: Row) -> tuple[str | None, ...]:
    """Return the unquantized weights of a run, their type, the device and its matmuls."""
    model, base = row.model, row.stored.record.baseline
    dtype = base.dtype if base is not None else model.dtype
    return weights_of(row.stored.record), dtype, model.device, model.products
