"""Finer scales should not be worse: a trend the other way is noise, or a fault."""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
from scipy import stats

from harness.audit.finding import Fault, Finding
from harness.audit.sheet import Column, ColumnKind, Sheet
from harness.audit.study import Study
from harness.results import formatting as figures

_FEWEST, _STRONG = 5, 0.8
_LEVEL = re.compile(
    r"(?P<tensor>per[-_ ]?tensor|tensor)|(?P<row>per[-_ ]?(?:row|channel)|row|channel)"
    r"|(?:per[-_ ]?)?(?:group[-_ ]?(?:size)?|g)[-_ ]?(?P<group>[1-9]\d*)"
    r"|^\W*(?P<number>[1-9]\d*)\W*$",
    re.IGNORECASE,
)


def granularity_trends(study: Study) -> Iterator[Finding]:
    """Yield columns in which finer scales go with worse values."""
    for sheet in study.sheets:
        for column in sheet.values:
            if column.kind in (ColumnKind.ACCURACY, ColumnKind.PERPLEXITY, ColumnKind.LOSS):
                yield from _column(sheet, column)


def _column(sheet: Sheet, column: Column) -> Iterator[Finding]:
    families: defaultdict[str, list[tuple[float, int]]] = defaultdict(list)
    for row in sheet.filled(column, without={*sheet.baselines, *sheet.means}):
        found = _level(sheet, row)
        if found is not None:
            families[found[0]].append((found[1], row))
    for family, members in families.items():
        fineness = [level for level, _ in members]
        values = [q.value for _, row in members if (q := column.quantities[row]) is not None]
        if len(set(fineness)) < _FEWEST or len(set(fineness)) < len(members):
            continue
        rho = _spearman(fineness, values)
        if (rho if column.falls else -rho) >= _STRONG:
            label = f"{family} " if family else ""
            yield Finding(
                min(sheet.rows[row].line for _, row in members),
                Fault.GRANULARITY,
                f"{column.header}: the finer the scales of {label}rows, the worse ({len(members)} "
                f"rows, Spearman {rho:+.2f}, exact p = "
                f"{figures.p_value(_exact(fineness, values))}); expected is the opposite: this is "
                "noise or a fault",
            )


def _level(sheet: Sheet, row: int) -> tuple[str, float] | None:
    """Return the name of a row without its granularity, and how fine that is; None without one."""
    name = sheet.name(row)
    found = _LEVEL.search(name)
    if found is None:
        return None
    family = " ".join(re.split(r"[-_ ]+", _LEVEL.sub("", name))).strip()
    if found["tensor"]:
        return family, 0.0
    # A row is coarser than any group of it.
    return family, 1e-9 if found["row"] else 1 / float(found["group"] or found["number"])


def _spearman(first: Sequence[float], second: Sequence[float]) -> float:
    return float(stats.spearmanr(first, second).statistic) if len(set(second)) > 1 else 0.0


def _exact(fineness: Sequence[float], values: Sequence[float]) -> float:
    """Return the two-sided p-value over all orders, or over many for more than seven rows."""
    found = stats.permutation_test(
        (np.array(fineness),),
        lambda x: stats.spearmanr(x, values).statistic,
        permutation_type="pairings",
        vectorized=False,
        n_resamples=5040,
        rng=np.random.default_rng(0),
    )
    return float(found.pvalue)
