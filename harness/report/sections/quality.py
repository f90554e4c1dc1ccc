"""What a format costs in quality and saves in bits: a table and a picture.

The cost is the difference of the mean negative log-likelihood from the baseline's [nat/token], that is the logarithm of
the ratio of perplexities. It is paired: both models scored the same tokens, so the interval is that of the documents'
differences, many times narrower than those of the perplexities by themselves.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from harness import stats
from harness.report import plots
from harness.report.grouping import Group, Row
from harness.report.paired_differences import Paired, log_loss
from harness.report.sections.noise import Floor
from harness.report.sections.scores import Section
from harness.results import formatting as figures

LEAST_ROWS = 4
"""Fewer formats make no trend."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """One format's price in quality."""

    row: Row
    difference: Paired
    """Mean NLL minus the baseline's [nat/token]."""
    on_frontier: bool = False
    """No other format of the group has both fewer or equal bits and a smaller cost."""

    @property
    def nll(self) -> float:
        """Mean NLL minus the baseline's [nat/token]."""
        return self.difference.value

    @property
    def interval(self) -> stats.Interval | None:
        """Its interval."""
        return self.difference.interval

    @property
    def bits(self) -> float:
        """Bits per quantized weight, scales included."""
        return self.row.quant.bits_per_weight


def quality_against_bits(group: Group, picture: Path, floor: Floor | None = None) -> Section | None:
    """Write the picture and return the section; None without a baseline, or with too few formats to compare.

    Raises:
        ResultError: A samples file is missing or damaged.
    """
    baseline = group.baseline
    candidates = [row for row in group.rows if not row.is_baseline]
    if group.task.name != "perplexity" or baseline is None or len(candidates) < LEAST_ROWS:
        return None
    costs = _marked([_cost(row, baseline) for row in candidates])
    plots.scatter_of_costs(costs, f"{group.model.name}, {group.task.data['name']}", picture)
    rows = [
        {
            "recipe": cost.row.label,
            "format": ", ".join(cost.row.quant.formats.values()),
            "inputs": ", ".join(cost.row.quant.input_formats.values()) or "float",
            "bits/weight": f"{cost.bits:.3f}",
            "perplexity": figures.number(cost.row.headline),
            "difference [nat/token]": f"{cost.nll:+.5f}",
            "95 % interval": figures.ends(cost.interval, "+.5f"),
            "differs from baseline": _verdict(cost, floor),
            "on the frontier": "yes" if cost.on_frontier else "",
        }
        for cost in costs
    ]
    # All recipes scored the same documents.
    how = costs[0].difference.note
    return Section(
        title=f"Quality against bits: {group.task.name} of {group.model.name}{group.suffix}",
        text=(
            f"Difference of the mean log-loss from the baseline's, paired token by token; {how}. "
            "0.01 is 1 % of perplexity. Each interval stands by itself: of many, one in twenty misses. Fewest bits first. "
            "A format is on the frontier if no other one here has as few bits and a smaller difference. The frontier describes these "
            "tokens; it is no test of one format against another."
            + (f"\n{floor.line()}" if floor else "")
        ),
        table=pd.DataFrame(rows),
        picture=picture.name,
    )


def _cost(row: Row, baseline: Row) -> Cost:
    """Return the paired difference of a row from the baseline."""
    return Cost(row=row, difference=log_loss(row, baseline))


def _marked(costs: list[Cost]) -> list[Cost]:
    """Return the costs, those with the fewest bits first, with the frontier marked."""
    marked: list[Cost] = []
    least = float("inf")
    for cost in sorted(costs, key=lambda cost: (cost.bits, cost.nll)):
        better = cost.nll < least
        least = min(least, cost.nll)
        marked.append(replace(cost, on_frontier=better))
    return marked


def _verdict(cost: Cost, floor: Floor | None) -> str:
    found, above = cost.difference.verdict(), cost.difference.verdict(floor.least if floor else 0.0)
    return above if above == found else f"{above} (within the noise floor)"
