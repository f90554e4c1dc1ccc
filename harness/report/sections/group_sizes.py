"""Quality and bits per weight as groups shrink."""

import pandas as pd

from harness.claims.claim import Answered, Claim, reference_value
from harness.claims.grouping import Row
from harness.claims.sentences import in_unit, without_unit
from harness.report.sections.granularity import (
    ELEMENTS,
    GRANULARITIES,
    GROUP_SIZES,
    headline,
    what_cells_are,
)
from harness.report.sections.section import Section
from harness.report.titles import task_title
from harness.results import formatting as figures


def group_size_trend(answered: Answered) -> Section | None:
    """Return bits per weight, value and difference from the baseline, coarsest granularity first.

    None if fewer than two granularities were measured, or no group size.
    """
    group = answered.group
    if not group.is_quality:
        return None
    rows = []
    for granularity in GRANULARITIES:
        found = {name: group.find(element, granularity) for element, name in ELEMENTS.items()}
        if not any(found.values()):
            continue
        cells = {"one scale for": _in_words(granularity)}
        for name, row in found.items():
            bits = f"{row.quant.bits_per_weight:.3f}" if row else figures.MISSING
            cells |= {f"{name} bits/weight": bits, name: headline(row)}
            cells |= _against_baseline(name, row, answered)
        rows.append(cells)
    if len(rows) < 2 or not any(row.granularity in GROUP_SIZES for row in group.rows):
        return None
    return Section(
        name="group-size-trend",
        title=f"Group-size trend: {task_title(group)}",
        text=(
            f"{what_cells_are(group)} Coarsest first. bits/weight counts the scales. The "
            f"difference from the baseline{_unit(answered)} is paired and has its 95 % interval; "
            "the ranking has its p and the verdict."
        ),
        table=pd.DataFrame(rows),
    )


def _unit(answered: Answered) -> str:
    """Return the unit of the differences in brackets; nothing if there are none."""
    claims = (each for each in answered.against_baseline.values() if isinstance(each, Claim))
    return next((f" [{in_unit(claim)[0]}]" for claim in claims), "")


def _against_baseline(name: str, row: Row | None, answered: Answered) -> dict[str, str]:
    """Return the difference from the baseline with its interval."""
    found = None
    if row is not None:
        found = answered.against_baseline.get(row.stored.record.run_id)
    difference = figures.MISSING
    if isinstance(found, Claim):
        difference = without_unit(found)
    elif found is not None and row is not None:
        difference = figures.difference(row.value, reference_value(found), row.headline.unit)
    return {f"{name} - baseline": difference}


def _in_words(granularity: str) -> str:
    if granularity in ("tensor", "row"):
        return f"a whole {granularity}"
    return f"{granularity.removeprefix('g')} weights"
