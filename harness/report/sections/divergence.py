"""How far each recipe moves the predictions of tokens away from the unquantized model."""

import pandas as pd

from harness.claims.grouping import Group, Row
from harness.claims.noise_floor import Floor
from harness.report.sections.section import Section
from harness.results import formatting as figures
from harness.results import names


def divergences(group: Group, floor: Floor | None) -> Section | None:
    """Return KL divergence, agreement and log-loss ratio of each recipe, smallest KL first."""
    if group.task.name != names.DIVERGENCE:
        return None
    base = group.compared_with
    title = f"Divergence from the baseline: {base.name}{group.suffix}"
    # The difference of the baseline from itself is 0 by definition, and no result.
    candidates = [row for row in group.rows if not row.is_baseline]
    if not candidates:
        return Section(
            title=title,
            text="No recipe was measured: the baseline alone differs from itself by nothing.",
        )
    return Section(
        title=title,
        text=(
            f"Protocol: {group.task.protocol}\n"
            f"Baseline: {base.name}, {base.origin}, {base.dtype}\n"
            f"Both models on the same {figures.count(group.headline)}, paired; "
            f"{candidates[0].headline.note}. Columns without an interval describe these tokens. "
            "Among recipes close to lossless the order by KL says little about tasks."
            + (f"\n{floor.line()}" if floor else "")
        ),
        table=pd.DataFrame([_cells(row) for row in candidates]),
    )


def _cells(row: Row) -> dict[str, str]:
    return {
        "recipe": row.label,
        "bits/weight": f"{row.quant.bits_per_weight:.3f}",
        "KL mean [nat/token]": figures.show(row.headline, "4 digits"),
        "95 % interval": figures.show_interval(row.headline, "4 digits"),
        "median": figures.show(row.metric(names.KL_MEDIAN), "4 digits"),
        "99 %": figures.show(row.metric(names.KL_P99), "4 digits"),
        "max": figures.show(row.metric(names.KL_MAX), "4 digits"),
        "same top token": figures.show(row.metric(names.SAME_TOP)),
        "RMS of delta-p": figures.show(row.metric(names.DELTA_P_RMS), "4 digits"),
        "ln PPL ratio": figures.show(row.metric(names.LN_PPL_RATIO), "4 digits"),
        "its interval": figures.show_interval(row.metric(names.LN_PPL_RATIO), "4 digits"),
    }
