"""The noise floor: how much results change without any quantization.

A record of the task `noise_floor` compares the unquantized model with itself: in other batches,
with another attention kernel, in another type. A difference between recipes that is not larger
says nothing about the recipes.
"""

from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from harness.report.grouping import Group, Row, weights_of
from harness.report.sections.section import Section
from harness.results import formatting as figures
from harness.results import names
from harness.results.record import Metric, Unit

SAME_TYPE = ("batch", "attention")
"""Variants that change only the order of sums. The variant `dtype` changes the arithmetic."""
METRICS = {
    "KL mean [nat/token]": names.KL_MEAN,
    "KL 99 %": names.KL_P99,
    "KL max": names.KL_MAX,
    "same top token": names.SAME_TOP,
    "RMS of delta-p": names.DELTA_P_RMS,
    "ln PPL ratio": names.LN_PPL_RATIO,
}
"""Title of a column -> metric; the record has `<variant>/<metric>`."""


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
        found = [self.value(variant, names.LN_PPL_RATIO) for variant in SAME_TYPE]
        return max(abs(value) for value in found if value is not None)

    def value(self, variant: str, name: str) -> float | None:
        """Return the value of a metric of a variant."""
        return self.row.value_of(f"{variant}/{name}")

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


def noise_floor(group: Group) -> Section | None:
    """Return a row for each change that was made to the unquantized model."""
    if group.task.name != names.NOISE_FLOOR:
        return None
    floor = Floor(group.rows[0])
    return Section(
        title=f"Noise floor: {group.compared_with.name}, {group.compared_with.dtype}{group.suffix}",
        text=(
            f"Protocol: {group.task.protocol}\n"
            f"The unquantized model against itself, {figures.count(floor.row.headline)}. "
            "Differences "
            "between recipes that are not above these say nothing about the recipes. The last "
            f"column belongs to the ln PPL ratio: {_how(floor)}. The other figures describe these "
            "tokens."
        ),
        table=pd.DataFrame([_cells(floor, variant) for variant in floor.variants]),
    )


def _cells(floor: Floor, variant: str) -> dict[str, str]:
    found = {title: floor.row.metric(f"{variant}/{name}") for title, name in METRICS.items()}
    change = next(metric.note for metric in found.values() if metric is not None)
    return (
        {"change": (change or variant).partition(";")[0]}
        | {title: _small(metric) for title, metric in found.items()}
        | {"its 95 % interval": figures.show_interval(found["ln PPL ratio"], "signed exponent")}
    )


def _small(metric: Metric | None) -> str:
    """Return a metric that may be far below 1."""
    is_share = metric is not None and metric.unit is Unit.FRACTION
    return figures.show(metric, None if is_share else "exponent")


def _how(floor: Floor) -> str:
    """Return how intervals of the log-loss were made, or why there are none.

    The note of a metric is `<what was changed>; <how the interval was made>`.
    """
    metric = floor.row.metric(f"{floor.variants[0]}/{names.LN_PPL_RATIO}")
    note = "" if metric is None else metric.note or ""
    return note.partition("; ")[2] or "no interval"
