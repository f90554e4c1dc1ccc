"""How far each recipe moves predictions from the float model's: tokens, and answers if questions were asked."""

import pandas as pd

from harness.report.grouping import Group, Row
from harness.report.paired_differences import Paired
from harness.report.sections.noise import Floor
from harness.report.sections.scores import Section
from harness.results import formatting as figures
from harness.results.record import Metric


def divergences(group: Group, floor: Floor | None) -> Section | None:
    """KL divergence, agreement and log-loss ratio of each recipe, smallest first."""
    if group.task.name != "divergence":
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
    rows = [
        {
            "recipe": row.label,
            "bits/weight": f"{row.quant.bits_per_weight:.3f}",
            "KL mean [nat/token]": _plain(row.headline),
            "95 % interval": _bounds(row.headline),
            "median": _plain(row.metric("kl_median")),
            "99 %": _plain(row.metric("kl_p99")),
            "max": _plain(row.metric("kl_max")),
            "same top token": figures.number(row.metric("same_top")),
            "RMS of delta-p": _plain(row.metric("delta_p_rms")),
            "ln PPL ratio": _plain(row.metric("ln_ppl_ratio")),
            "its interval": _bounds(row.metric("ln_ppl_ratio")),
        }
        for row in candidates
    ]
    return Section(
        title=title,
        text=(
            f"Protocol: {group.task.protocol}\nBaseline: {base.name}, {base.origin}, {base.dtype}\nBoth models on the same {figures.count(group.headline)}, "
            f"paired; {candidates[0].headline.note}. Columns without an interval describe these tokens. Among recipes close to lossless the order by KL "
            "says little about tasks." + (f"\n{floor.line()}" if floor else "")
        ),
        table=pd.DataFrame(rows),
    )


def answer_changes(group: Group) -> Section | None:
    """Answers that changed, where a divergence run asked questions."""
    asked = [row for row in group.rows if row.metric("flips") is not None]
    if group.task.name != "divergence" or not asked:
        return None
    rows = [
        {
            "recipe": row.label,
            "right to wrong": figures.count_of(row.metric("flips_to_wrong")),
            "wrong to right": figures.count_of(row.metric("flips_to_right")),
            "flips": figures.number(row.metric("flips")),
            "other answer": figures.number(row.metric("answer_disagreement")),
            "accuracy": figures.number(row.metric("accuracy")),
            "baseline": figures.number(row.metric("accuracy_baseline")),
            "p": _plain(row.metric("flips_p")),
            "differs from baseline": _verdict(row),
        }
        for row in asked
    ]
    flips = next(metric for row in asked if (metric := row.metric("flips")) is not None)
    return Section(
        title=f"Answers that changed: {group.model.name}{group.suffix}",
        text=(
            f"The same {figures.count(flips)} asked of both models. p is that of McNemar's exact two-sided test of the flips, each "
            "recipe by itself: of twenty recipes without any effect one is expected below 0.05."
        ),
        table=pd.DataFrame(rows),
    )


def _verdict(row: Row) -> str:
    p, wrong, right = (
        metric.value if (metric := row.metric(name)) is not None else None
        for name in ("flips_p", "flips_to_wrong", "flips_to_right")
    )
    if row.is_baseline:
        return "it is the baseline"
    if p is None or wrong is None or right is None:
        return "cannot tell"
    return Paired(value=right - wrong, interval=None, note="", p=p).verdict()


def _plain(metric: Metric | None) -> str:
    return figures.spelled(metric, ".4g")


def _bounds(metric: Metric | None) -> str:
    return figures.ends(None if metric is None else metric.ci95, ".4g")
