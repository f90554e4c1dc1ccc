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


class Floor(NamedTuple):
    """The noise floor of one model on one kind of device."""

    row: Row

    @property
    def variants(self) -> list[str]:
        """Names of the changes that were measured."""
        found = (metric.name.partition("/")[0] for metric in self.row.stored.record.metrics)
        return list(dict.fromkeys(found))

    @property
    def least(self) -> float:
        """Largest change of the mean log-loss by the order of sums alone [nat/token]."""
        return self._largest(names.LN_PPL_RATIO)

    @property
    def divergence(self) -> float:
        """Largest mean KL divergence by the order of sums alone [nat/token]."""
        return self._largest(names.KL_MEAN)

    @property
    def flips(self) -> float | None:
        """Largest share of answers that flip by the order of sums alone; None if none was asked."""
        asked = any(self.value(variant, names.FLIPS) is not None for variant in SAME_TYPE)
        return self._largest(names.FLIPS) if asked else None

    def of(self, measure: Measure | None) -> float | None:
        """Return the noise floor in the unit of an item; None for a measure that has none."""
        if measure is LOG_LOSS:
            return self.least
        if measure is ACCURACY:
            return self.flips
        return self.divergence if measure is KL else None

    def _largest(self, name: str) -> float:
        found = [self.value(variant, name) for variant in SAME_TYPE]
        return max(abs(value) for value in found if value is not None)

    def value(self, variant: str, name: str) -> float | None:
        """Return the value of a metric of a variant."""
        return self.row.value_of(f"{variant}/{name}")

    def line_of(self, measure: Measure | None) -> str | None:
        """Return the noise floor of a measure in one sentence; None if it has none."""
        if measure is ACCURACY:
            share = self.flips
            return (
                None
                if share is None
                else (
                    f"Noise floor, the unquantized model against itself: up to "
                    f"{100 * share:.2g} % of the answers flip by another order of sums."
                )
            )
        return self.line() if measure is LOG_LOSS else None

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

    Of several measurements the longest counts.
    """
    rows = [
        row
        for other in groups
        for row in other.rows
        if other.task.name == names.NOISE_FLOOR and _setting(row) == _setting(group.rows[0])
    ]
    return Floor(max(rows, key=lambda row: row.headline.n)) if rows else None


def _setting(row: Row) -> tuple[str | None, ...]:
    """Return the unquantized weights of a run, their type, the device and its matmuls."""
    model, base = row.model, row.stored.record.baseline
    dtype = base.dtype if base is not None else model.dtype
    return weights_of(row.stored.record), dtype, model.device, model.products
