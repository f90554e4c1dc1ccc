"""The texts that recipes were fitted to, and what is claimed over their seeds."""

from collections.abc import Sequence

import pandas as pd

from harness.claims.claim import Answered, Claim, NotCompared
from harness.claims.grouping import Group, Row
from harness.claims.row_names import is_calibrated
from harness.claims.seeds import Fitted, fitted
from harness.claims.sentences import in_unit
from harness.report.sections.section import Section
from harness.report.titles import task_title
from harness.results import formatting as figures
from harness.stats.seeds import MIN_SEEDS

READING = (
    "The mean difference from the baseline over the seeds that a recipe's calibration text was "
    f"drawn with. With {MIN_SEEDS} seeds or more the interval has the errors of the items and of "
    "the seeds, and the verdict is about the recipe; the recipes of a task are a family (Holm). "
    "With fewer seeds nothing is claimed of the recipe: other tables speak of these calibrations "
    "alone. The deviation is the standard deviation between the differences of single seeds, over "
    "the same items."
)


def calibrations(groups: Sequence[Group]) -> Section | None:
    """Return the text of every recipe that is fitted to one; None if no recipe is."""
    rows = {row.label: row for group in groups for row in group.rows if _is_fitted(row)}
    if not rows:
        return None
    return Section(
        name="calibration",
        title="Calibration",
        text=(
            "What these recipes were fitted to before they were measured. Another text, seed or "
            "number of sequences makes another recipe; of records made before the text was kept it "
            "is unknown, and their commands measure again."
        ),
        table=pd.DataFrame([{"recipe": label} | _cells(row) for label, row in rows.items()]),
    )


def _is_fitted(row: Row) -> bool:
    return row.quant.calibration is not None or is_calibrated(row.stored.record)


def _cells(row: Row) -> dict[str, str]:
    text = row.quant.calibration
    if text is None:
        return {"text": "unknown"} | dict.fromkeys(("SHA-256", "tokens", "seed"), figures.MISSING)
    return {
        "text": text.text,
        "SHA-256": text.sha256[:12],
        "tokens": f"{text.num_sequences} x {text.length}",
        "seed": str(text.seed),
    }


def calibration_seeds(answered: Sequence[Answered]) -> Section | None:
    """Return what each fitted recipe costs over its calibration seeds; None without any."""
    found = [recipe for recipe in fitted(answered) if recipe.comparison is not None]
    if not found:
        return None
    untested = [why for recipe in found if recipe.has_enough and (why := _untested(recipe))]
    return Section(
        name="calibration-seeds",
        title="Calibration seeds",
        text="\n".join([READING, *dict.fromkeys(untested)]),
        table=pd.DataFrame([_seed_cells(recipe) for recipe in found]),
    )


def _untested(recipe: Fitted) -> str | None:
    """Return why enough seeds have no interval; None if they have one."""
    match recipe.comparison:
        case NotCompared(reason=reason):
            return f"{recipe.label}: {reason}."
        case Claim(difference=found) if found.interval is None:
            return f"{recipe.label}: {found.test}."
    return None


def _seed_cells(recipe: Fitted) -> dict[str, str]:
    difference = interval = p = figures.MISSING
    verdict = "not compared"
    if isinstance(claim := recipe.comparison, Claim):
        unit, value, bounds = in_unit(claim)
        difference, verdict = f"{value:+.3g} {unit}", str(claim.verdict)
        if bounds is not None:
            interval = f"{bounds.low:+.3g} .. {bounds.high:+.3g}"
        if claim.evidence.p is not None:
            p = figures.p_value(claim.evidence.p)
    return {
        "task": task_title(recipe.group),
        "recipe": recipe.label,
        "seeds": ", ".join(map(str, recipe.seeds)),
        "mean difference from baseline": difference,
        "deviation between seeds": recipe.deviation or figures.MISSING,
        "95 % interval over items and seeds": interval,
        "p": p,
        "differs from baseline": verdict if recipe.has_enough else "for these seeds alone",
    }
