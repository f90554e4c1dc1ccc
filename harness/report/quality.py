"""What a format costs in quality and saves in bits: a table and a picture.

The cost is the difference of the mean negative log-likelihood from the baseline's [nat/token], that is the logarithm of
the ratio of perplexities. It is paired: both models scored the same windows, so the interval is that of the windows'
differences, many times narrower than those of the perplexities by themselves.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from harness import stats
from harness.report import figures, paired, plots
from harness.report.noise import Floor
from harness.report.sections import Section
from harness.report.study import Group, Row

LEAST_ROWS = 4
"""Fewer formats make no trend."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """One format's price in quality."""

    row: Row
    nll: float
    """Mean NLL minus the baseline's [nat/token]."""
    interval: stats.Interval | None
    on_frontier: bool = False
    """No other format of the group has both fewer or equal bits and a smaller cost."""

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
            "95 % interval": _spell(cost.interval),
            "differs from baseline": _verdict(cost, floor),
            "on the frontier": "yes" if cost.on_frontier else "",
        }
        for cost in costs
    ]
    windows = baseline.task.data["num_windows"]
    return Section(
        title=f"Quality against bits: {group.task.name} of {group.model.name}{group.suffix}",
        text=(
            f"Difference of the mean log-loss from the baseline's, paired over {windows} windows, with Student's t interval; "
            "0.01 is 1 % of perplexity. Each interval stands by itself: of many, one in twenty misses. Smallest first. "
            "On the frontier is a format if no other here has as few bits and a smaller difference; that describes these "
            "windows, and no test of one format against another is in it."
            + (f"\n{floor.line()}" if floor else "")
        ),
        table=pd.DataFrame(rows),
        picture=picture.name,
    )


def _cost(row: Row, baseline: Row) -> Cost:
    """Return the paired difference of a row from the baseline."""
    found = paired.log_loss(row, baseline)
    return Cost(row=row, nll=found.value, interval=found.interval)


def _marked(costs: list[Cost]) -> list[Cost]:
    """Return the costs, cheapest first, with the frontier marked."""
    marked: list[Cost] = []
    least = float("inf")
    for cost in sorted(costs, key=lambda cost: (cost.bits, cost.nll)):
        better = cost.nll < least
        least = min(least, cost.nll)
        marked.append(replace(cost, on_frontier=better))
    return marked


def _spell(interval: stats.Interval | None) -> str:
    if interval is None:
        return f"{figures.MISSING} (fewer than {stats.MIN_CLUSTERS} windows)"
    return f"{interval.low:+.5f} .. {interval.high:+.5f}"


def _verdict(cost: Cost, floor: Floor | None) -> str:
    if cost.interval is None or cost.interval.low <= 0 <= cost.interval.high:
        return "cannot tell"
    if floor is not None and abs(cost.nll) <= floor.ln_ppl_ratio:
        return "cannot tell (within the noise floor)"
    return "worse" if cost.nll > 0 else "better"
