"""The same schemes measured twice: whether the second table repeats the order of the first."""

import re
from collections.abc import Iterator
from itertools import combinations

from scipy import stats

from harness.audit.checks.gaps import sheets_with_claims
from harness.audit.finding import Fault, Finding
from harness.audit.sheet import Sheet
from harness.audit.study import Study
from harness.results import formatting as figures
from harness.stats.difference import ALPHA

_FEWEST = 6
"""Fewer schemes in both tables show nothing."""
_WEAK = 0.4
"""Largest rank correlation that is reported."""


def replications(study: Study) -> Iterator[Finding]:
    """Yield tables whose order of schemes has nothing to do with that of an earlier table."""
    seen: list[tuple[Sheet, dict[str, float]]] = []
    for sheet, _ in sheets_with_claims(study):
        found = _values(sheet)
        is_copy = any(found.items() <= earlier.items() for _, earlier in seen)
        if sheet.baselines and not is_copy:
            seen.append((sheet, found))
    for (first, ours), (second, theirs) in combinations(seen, 2):
        common = [name for name in ours if name in theirs]
        if len(common) < _FEWEST:
            continue
        pair = [ours[name] for name in common], [theirs[name] for name in common]
        if any(len(set(each)) == 1 for each in pair):
            continue
        rank = stats.spearmanr(*pair)
        if rank.pvalue >= ALPHA and rank.statistic < _WEAK:
            yield Finding(
                second.line,
                Fault.REPLICATION,
                f"the order of {len(common)} schemes in the table of line {first.line} is not "
                f"repeated here: Spearman {rank.statistic:.2f}, "
                f"p = {figures.p_value(float(rank.pvalue))}; {_reversed(common, *pair)}",
            )


def _values(sheet: Sheet) -> dict[str, float]:
    """Return the accuracy of each scheme; fake and real forms of one have the same name."""
    column = sheet.accuracies[0]
    rows = sheet.filled(column, without={*sheet.baselines, *sheet.means})
    found = {}
    for row in rows:
        value = column.quantities[row]
        name = re.sub(r"[-_ ]?(?:fake|real)(?![a-z])", "", sheet.name(row).lower())
        if value is not None:
            found[name] = value.value
    return found


def _reversed(names: list[str], ours: list[float], theirs: list[float]) -> str:
    """Return how many pairs of schemes have the other order."""
    pairs = list(combinations(range(len(names)), 2))
    turned = [(i, j) for i, j in pairs if (ours[i] - ours[j]) * (theirs[i] - theirs[j]) < 0]
    return f"{len(turned)} of {len(pairs)} pairs of schemes have the other order"
