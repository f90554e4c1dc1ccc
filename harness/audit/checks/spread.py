"""Rankings by accuracy: what rows without any difference would look like."""

from collections.abc import Iterator
from itertools import pairwise

from scipy import integrate, stats

from harness.audit import flips
from harness.audit.checks.gaps import least_p, share_of, sheets_with_claims
from harness.audit.checks.order import ranking
from harness.audit.finding import Fault, Finding
from harness.audit.flips import Share
from harness.audit.sheet import Column, Sheet
from harness.audit.study import Study

_FEWEST = 4
"""Fewer rows have no spread to speak of."""


def spreads(study: Study) -> Iterator[Finding]:
    """Yield the distance of best and worst row, and the lead of each rank over the next."""
    for sheet, total in sheets_with_claims(study):
        for column in sheet.accuracies:
            rows = sheet.filled(column, without={*sheet.baselines, *sheet.means})
            if len(rows) >= _FEWEST:
                yield from _extremes(sheet, column, rows, total)
        yield from _neighbours(sheet, total)


def expected_range(num: int) -> float:
    """Return the expected range of `num` standard normal numbers (Tippett 1925)."""

    def density(x: float) -> float:
        below = float(stats.norm.cdf(x))
        return 1 - below**num - (1 - below) ** num

    return float(integrate.quad(density, -8, 8)[0])


def _extremes(sheet: Sheet, column: Column, rows: list[int], total: int) -> Iterator[Finding]:
    shares = {row: _share(column, row) for row in rows}
    worst, best = (end(rows, key=shares.__getitem__) for end in (min, max))
    (_, net), num = flips.net_flips(shares[best], shares[worst], total), len(rows)
    limit = max(net, flips.possible_flips(shares[best], shares[worst], total))
    apart = shares[best].value - shares[worst].value
    pairs = num * (num - 1) // 2
    alone, corrected = (flips.most_flips(net, limit, each) for each in (1, pairs))
    if apart == 0 or (corrected is not None and corrected >= limit - 1):
        return
    # A paired difference has the standard error sqrt(flips / n).
    share = total * (apart / expected_range(num)) ** 2
    level = "never" if alone is None else f"only with {alone} flips or fewer in all"
    family = "never" if corrected is None else f"with {corrected} or fewer"
    yield Finding(
        sheet.line,
        Fault.SPREAD,
        f"{column.header}: {sheet.name(best)} and {sheet.name(worst)}, best and worst of {num} "
        f"rows, are {100 * apart:.2f} pp apart, a net {net} flips of {total:,}; p < 0.05 "
        f"{level} (exact McNemar), as one of {pairs} pairs {family} (Bonferroni). If "
        f"{100 * share:.1f} % of the answers flip, {num} rows without any difference are as far "
        f"apart on average{_above_baseline(sheet, column, rows)}",
    )


def _above_baseline(sheet: Sheet, column: Column, rows: list[int]) -> str:
    base = next((q for row in sheet.baselines if (q := column.quantities[row])), None)
    if base is None:
        return ""
    values = (q.value for row in rows if (q := column.quantities[row]))
    above = sum(value > base.value for value in values)
    return f", and half of them are above the baseline ({above} of {len(rows)} are here)"


def _neighbours(sheet: Sheet, total: int) -> Iterator[Finding]:
    column, ranked = ranking(sheet)
    if column is None or column not in sheet.accuracies or len(ranked) < 2:
        return
    shares = [_share(column, each.row) for each in ranked]
    gaps = [flips.net_flips(*pair, total)[1] for pair in pairwise(shares)]
    few, lead = sum(gap < flips.fewest_net() for gap in gaps), gaps[0]
    if few == 0:
        return
    yield Finding(
        sheet.line,
        Fault.SPREAD,
        f"{column.header}: {few} of {len(gaps)} neighbours in the ranking are fewer than "
        f"{flips.fewest_net()} of {total:,} answers apart, so no test can order them; "
        f"{sheet.name(ranked[0].row)} leads {sheet.name(ranked[1].row)} by {lead} "
        f"({least_p(lead)})",
    )


def _share(column: Column, row: int) -> Share:
    value = column.quantities[row]
    assert value is not None  # noqa: S101 - callers pass rows that have a number
    return share_of(column, value)
