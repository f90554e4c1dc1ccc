"""The noise floor of a model, beside every difference that is reported.

A record of the task `noise_floor` has the float model against itself: in other batches, with another attention kernel, in
another type. What changes there without any quantization is what no difference between recipes can be read below.
"""

from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from harness.report.grouping import Group, Row, weights_of
from harness.report.sections.scores import Section
from harness.results import formatting as figures
from harness.results.record import Metric, Unit

TASK = "noise_floor"
ARITHMETIC = ("batch", "attention")
"""Variants of the same type: only the order of sums differs. `dtype` is a change of arithmetic, and shown as such."""
COLUMNS = {
    "KL mean [nat/token]": "kl_mean",
    "KL 99 %": "kl_p99",
    "KL max": "kl_max",
    "same top token": "same_top",
    "RMS of delta-p": "delta_p_rms",
    "ln PPL ratio": "ln_ppl_ratio",
}


class Floor(NamedTuple):
    """The noise floor of one model on one kind of device."""

    row: Row

    @property
    def variants(self) -> list[str]:
        """Names of the changes that were measured."""
        names = (metric.name.partition("/")[0] for metric in self.row.stored.record.metrics)
        return list(dict.fromkeys(names))

    def value(self, variant: str, name: str) -> float | None:
        """Return a figure of a variant."""
        metric = self.row.metric(f"{variant}/{name}")
        return None if metric is None else metric.value

    @property
    def least(self) -> float:
        """Largest change of the mean log-loss by the order of sums alone [nat/token]."""
        found = [self.value(variant, "ln_ppl_ratio") for variant in ARITHMETIC]
        return max(abs(value) for value in found if value is not None)

    def line(self) -> str:
        """Return the floor in one sentence."""
        shown = [
            f"{variant}: KL {self.value(variant, 'kl_mean'):.1e}, ln PPL ratio "
            f"{self.value(variant, 'ln_ppl_ratio'):+.1e}"
            for variant in self.variants
        ]
        tokens = figures.count(self.row.headline)
        return f"Noise floor, the float model against itself on {tokens}: {'; '.join(shown)} (nat/token)."


def floor_of(group: Group, groups: Sequence[Group]) -> Floor | None:
    """Return the noise floor of a group's model, if it was measured; the longest measurement if there are several."""
    rows = [
        row
        for other in groups
        for row in other.rows
        if other.task.name == TASK and _machine(row) == _machine(group.rows[0])
    ]
    return Floor(max(rows, key=lambda row: row.headline.n)) if rows else None


def _machine(row: Row) -> tuple[str | None, ...]:
    """Return the float weights of a run, and what multiplies them."""
    model, base = row.model, row.stored.record.baseline
    dtype = base.dtype if base is not None else model.dtype
    return weights_of(row.stored.record), dtype, model.device, model.products


def noise_floor(group: Group) -> Section | None:
    """What changes without quantization, for each kind of change."""
    if group.task.name != TASK:
        return None
    floor = Floor(group.rows[0])
    record = floor.row.stored.record
    rows = []
    for variant in floor.variants:
        found = {title: record.metric(f"{variant}/{name}") for title, name in COLUMNS.items()}
        change = next(metric.note for metric in found.values() if metric is not None)
        ratio = found["ln PPL ratio"]
        rows.append(
            {"change": (change or variant).partition(";")[0]}
            | {title: _small(metric) for title, metric in found.items()}
            | {"its 95 % interval": figures.ends(None if ratio is None else ratio.ci95, "+.2e")}
        )
    return Section(
        title=f"Noise floor: {group.compared_with.name}, {group.compared_with.dtype}{group.suffix}",
        text=(
            f"Protocol: {group.task.protocol}\nThe float model against itself, {figures.count(floor.row.headline)}. "
            "Differences between recipes that are not above these say nothing about the recipes. The last column belongs to the ln PPL "
            f"ratio: {_how(floor)}. The other figures describe these tokens."
        ),
        table=pd.DataFrame(rows),
    )


def _how(floor: Floor) -> str:
    """Return how intervals of the log-loss were made, or why there are none; the note of a figure begins with what was changed."""
    metric = floor.row.metric(f"{floor.variants[0]}/ln_ppl_ratio")
    note = "" if metric is None else metric.note or ""
    return note.partition("; ")[2] or "no interval"


def _small(metric: Metric | None) -> str:
    """Return a figure that may be far below one."""
    is_share = metric is not None and metric.unit is Unit.FRACTION
    return figures.number(metric) if is_share else figures.spelled(metric, ".2e")
