"""A table of the noise floor; see `harness.claims.noise_floor`."""

import pandas as pd

from harness.claims.grouping import Group
from harness.claims.noise_floor import Floor, most_asked
from harness.report.sections.section import Section, runs_of
from harness.results import formatting as figures
from harness.results import names
from harness.results.record import Metric, Unit

METRICS = {
    "KL mean [nat/token]": names.KL_MEAN,
    "KL 99 %": names.KL_P99,
    "KL max": names.KL_MAX,
    "same top token": names.SAME_TOP,
    "RMS of delta-p": names.DELTA_P_RMS,
    "ln PPL ratio": names.LN_PPL_RATIO,
    "flips": names.FLIPS,
}
"""Title of a column -> metric; the record has `<variant>/<metric>`."""


def noise_floor(group: Group) -> Section | None:
    """Return a row for each change that was made to the unquantized model."""
    if group.task.name != names.NOISE_FLOOR:
        return None
    floor = Floor(group.rows[0], most_asked(group.rows[:1]))
    return Section(
        name="noise-floor",
        title=f"Noise floor: {group.compared_with.name}, {group.compared_with.dtype}{group.suffix}",
        text=(
            f"Protocol: {group.task.protocol}\n"
            f"The unquantized model against itself, {figures.count(floor.row.headline)}. "
            "Differences "
            "between recipes that are not above these say nothing about the recipes. The last "
            f"column belongs to the ln PPL ratio: {_how(floor)}. The other figures describe these "
            "tokens and answers."
        ),
        table=pd.DataFrame([_cells(floor, variant) for variant in floor.variants]),
        runs=runs_of([floor.row] * len(floor.variants)),
    )


def _titles(floor: Floor) -> list[str]:
    """Return the columns; without questions there are no flips."""
    return [title for title in METRICS if title != "flips" or floor.flips is not None]


def _cells(floor: Floor, variant: str) -> dict[str, str]:
    asked = _titles(floor)
    found = {title: floor.row.metric(f"{variant}/{name}") for title, name in METRICS.items()}
    change = next(metric.note for metric in found.values() if metric is not None)
    return (
        {"change": (change or variant).partition(";")[0]}
        | {title: _small(found[title]) for title in asked}
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
