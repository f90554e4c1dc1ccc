"""Two columns that are compared row by row: whether the rows show that one is better."""

from collections.abc import Iterator

import numpy as np
from scipy import stats

from harness.audit.derivation import Derivation
from harness.audit.finding import Fault, Finding
from harness.audit.sheet import Sheet
from harness.audit.study import Study
from harness.results import formatting as figures
from harness.stats.difference import ALPHA

_FEWEST = 4
"""Fewer rows are not tested: they could not show anything."""


def compared_columns(study: Study) -> Iterator[Finding]:
    """Yield comparisons of two columns that no test over their rows supports."""
    for sheet, found in study.derived():
        is_compared = found.other is not None and found.operation.is_difference
        if is_compared and sheet.means and not sheet.has_errors:
            yield from _compared(sheet, found)


def _compared(sheet: Sheet, found: Derivation) -> Iterator[Finding]:
    steps = [each for each in found.steps if each.row not in sheet.means]
    assert found.other is not None  # noqa: S101 - the caller has checked it
    first = np.array([each.value.value for each in steps])
    second = np.array([each.reference.value for each in steps])
    moved = first - second
    if len(steps) < _FEWEST or not moved.any():
        return
    above, below = int((moved > 0).sum()), int((moved < 0).sum())
    tests = {
        "sign test": stats.binomtest(above, above + below).pvalue,
        "paired t": stats.ttest_rel(first, second).pvalue if np.ptp(moved) else 1.0,
        "Wilcoxon": stats.wilcoxon(moved).pvalue,
    }
    if min(tests.values()) < ALPHA:
        return
    names = found.source.header, found.other.header
    p_values = ", ".join(f"{name} p = {figures.p_value(float(p))}" for name, p in tests.items())
    deviations = " and ".join(f"{np.std(each, ddof=1):.2f}" for each in (first, second))
    yield Finding(
        sheet.line,
        Fault.PAIRS,
        f"{names[0]} is above {names[1]} in {above} of {len(steps)} rows, on average by "
        f"{moved.mean():+.2f}: {p_values}. Rows over the same samples are not independent, so "
        f"p is larger still. Standard deviation over the rows: {deviations}",
    )
