"""What a format costs in quality and saves in bits: a table and a picture.

The cost is the mean negative log-likelihood minus the baseline's [nat/token], which is the
logarithm of the ratio of perplexities. Both models score the same tokens, so the difference is
paired: its interval, by document, is many times narrower than those of the two perplexities.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from harness.claims.claim import Answered, Claim, NotCompared
from harness.claims.sentences import sentence, verdict_with_margin
from harness.errors import ResultError
from harness.report import plots
from harness.report.plots import Cost
from harness.report.sections.section import Section, runs_of
from harness.results import formatting as figures
from harness.results import names
from harness.stats.difference import ALPHA

LEAST_ROWS = 4
"""Fewer formats make no trend."""


def quality_against_bits(answered: Answered, picture: Path) -> Section | None:
    """Write the picture, if matplotlib is installed, and return the section.

    None for another task than perplexity, without a baseline, or with too few formats.
    """
    group, floor = answered.group, answered.floor
    found = answered.against_baseline.values()
    if group.task.name != names.PERPLEXITY or len(found) < LEAST_ROWS:
        return None
    claims = [each for each in found if isinstance(each, Claim)]
    left_out = [sentence(each) for each in found if isinstance(each, NotCompared)]
    if not claims:
        raise ResultError(f"a recipe must be comparable with the baseline: {'; '.join(left_out)}")
    costs = mark_frontier([Cost(claim=claim) for claim in claims])
    title = f"{group.model.name}, {group.task.data['name']}"
    is_drawn = plots.scatter_of_costs(costs, title, picture)
    how = costs[0].claim.difference.test  # all recipes scored the same documents
    return Section(
        name="quality-against-bits",
        title=f"Quality against bits: {group.task.name} of {group.model.name}{group.suffix}",
        text=(
            "Difference of the mean log-loss from the baseline's, paired token by token; "
            f"{how}. 0.01 is 1 % of perplexity. Each interval stands by itself: of many, one in "
            "twenty misses. p is corrected for their number (Holm). Fewest bits first. A "
            "format is on the frontier if no other one here "
            "has as few bits and a smaller difference. The frontier describes these tokens; it is "
            "no test of one format against another."
            + (f"\n{floor.line()}" if floor else "")
            + ("" if is_drawn else f"\n{plots.LEFT_OUT}")
            + "".join(f"\n{line}" for line in left_out)
        ),
        table=pd.DataFrame([_cells(cost) for cost in costs]),
        runs=runs_of([cost.row for cost in costs]),
        picture=picture.name if is_drawn else None,
    )


def mark_frontier(costs: Sequence[Cost]) -> list[Cost]:
    """Return the costs, fewest bits first, with `on_frontier` set."""
    marked: list[Cost] = []
    least = float("inf")
    for cost in sorted(costs, key=lambda cost: (cost.bits, cost.nll)):
        marked.append(replace(cost, on_frontier=cost.nll < least))
        least = min(least, cost.nll)
    return marked


def _cells(cost: Cost) -> dict[str, str]:
    quant, p = cost.row.quant, cost.claim.evidence.p
    return {
        "recipe": cost.row.label,
        "format": ", ".join(quant.formats.values()),
        "inputs": ", ".join(quant.input_formats.values()) or "float",
        "bits/weight": f"{cost.bits:.3f}",
        "perplexity": figures.show(cost.row.headline),
        "difference [nat/token]": f"{cost.nll:+.5f}",
        "95 % interval": figures.show_bounds(cost.interval, "signed"),
        "p": figures.MISSING if p is None else figures.p_value(p),
        "differs from baseline": verdict_in_words(cost.claim),
        "on the frontier": "yes" if cost.on_frontier else "",
    }


def verdict_in_words(claim: Claim) -> str:
    """Return the verdict, and say if the noise floor alone prevents one."""
    evidence = claim.evidence
    is_clear = evidence.p is not None and evidence.p < ALPHA
    within = " (within the noise floor)" if is_clear and evidence.is_below_floor else ""
    return f"{verdict_with_margin(claim)}{within}"
