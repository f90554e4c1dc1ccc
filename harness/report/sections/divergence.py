"""How far each recipe moves the predictions of tokens away from the unquantized model."""

from collections.abc import Iterator, Sequence

import pandas as pd

from harness.claims.claim import Answered, Claim, Comparison, NotCompared
from harness.claims.grouping import Row
from harness.claims.noise_floor import Floor
from harness.claims.sentences import NO_FLOOR, verdict_with_margin
from harness.report.sections.section import Section, runs_of
from harness.results import formatting as figures
from harness.results import names


def divergences(answered: Answered) -> Section | None:
    """Return KL divergence, agreement and log-loss ratio of each recipe, smallest KL first."""
    group, floor = answered.group, answered.floor
    if group.task.name != names.DIVERGENCE:
        return None
    base = group.compared_with
    title = f"Divergence from the baseline: {base.name}{group.suffix}"
    # The difference of the baseline from itself is 0 by definition, and no result.
    candidates = [row for row in group.rows if not row.is_baseline]
    if not candidates:
        return Section(
            name="divergence",
            title=title,
            text="No recipe was measured: the baseline alone differs from itself by nothing.",
        )
    found = [answered.against_baseline[row.stored.record.run_id] for row in candidates]
    return Section(
        name="divergence",
        title=title,
        text=(
            f"Protocol: {group.task.protocol}\n"
            f"Baseline: {base.name}, {base.origin}, {base.dtype}\n"
            f"Both models on the same {figures.count(group.headline)}, paired; "
            f"{candidates[0].headline.note}. {_test(floor)} Other columns without an interval "
            "describe these tokens. Among recipes with a small KL its order says little about "
            "tasks."
            + (f"\n{floor.line()}" if floor else "")
            + "".join(f"\n{line}" for line in dict.fromkeys(_why_no_test(found)))
        ),
        table=pd.DataFrame(
            [_cells(row, each) for row, each in zip(candidates, found, strict=True)]
        ),
        runs=runs_of(candidates),
    )


def _test(floor: Floor | None) -> str:
    if floor is None:
        return f"Verdict: cannot tell, as {NO_FLOOR}."
    return (
        f"p is that of a KL of at most the noise floor of {floor.divergence:.1e} nat/token, "
        "corrected for the number of recipes (Holm)."
    )


def _why_no_test(found: Sequence[Comparison]) -> Iterator[str]:
    for each in found:
        if isinstance(each, NotCompared):
            yield f"{each.row.label}: {each.reason}."
        elif not each.difference.estimates:
            yield f"{each.row.label}: {each.difference.test}."


def _cells(row: Row, found: Comparison) -> dict[str, str]:
    p = found.evidence.p if isinstance(found, Claim) else None
    return {
        "recipe": row.label,
        "bits/weight": f"{row.quant.bits_per_weight:.3f}",
        "KL mean [nat/token]": figures.show(row.headline, "4 digits"),
        "95 % interval": figures.show_interval(row.headline, "4 digits"),
        "p": figures.MISSING if p is None else figures.p_value(p),
        "differs from baseline": (
            verdict_with_margin(found) if isinstance(found, Claim) else "not compared"
        ),
        "median": figures.show(row.metric(names.KL_MEDIAN), "4 digits"),
        "99 %": figures.show(row.metric(names.KL_P99), "4 digits"),
        "max": figures.show(row.metric(names.KL_MAX), "4 digits"),
        "same top token": figures.show(row.metric(names.SAME_TOP)),
        "RMS of delta-p": figures.show(row.metric(names.DELTA_P_RMS), "4 digits"),
        "ln PPL ratio": figures.show(row.metric(names.LN_PPL_RATIO), "4 digits"),
        "its interval": figures.show_interval(row.metric(names.LN_PPL_RATIO), "4 digits"),
    }
