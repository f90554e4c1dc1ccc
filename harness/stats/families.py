"""Families of tests: p-values corrected for how many were made, and which recipes share a tier.

One of twenty tests of nothing has p < 0.05. Claims are corrected by Holm's method, which keeps the
chance of one false claim in a family at or below 5 %. Screening, which only picks what to look at
next, is corrected by Benjamini and Hochberg's, which keeps the share of false picks there.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, TypeVar

import networkx as nx
import numpy as np
from statsmodels.stats.contingency_tables import cochrans_q
from statsmodels.stats.multitest import multipletests

from harness.stats.difference import ALPHA

Item = TypeVar("Item", bound=Hashable)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values of a family, corrected by Holm's method (1979)."""
    return _corrected(p_values, "holm")


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Return the p-values of a family, corrected by Benjamini and Hochberg's method (1995)."""
    return _corrected(p_values, "fdr_bh")


def _corrected(p_values: Sequence[float], method: str) -> list[float]:
    if not p_values:
        return []
    return [float(p) for p in multipletests(p_values, method=method)[1]]


def cochran(correct: "np.ndarray[Any, np.dtype[np.float64]]") -> float:
    """Return the p-value of Cochran's Q (1950): all models have the same accuracy.

    Args:
        correct: 0 or 1 for each question and model, `[questions, models]`.
    """
    # Questions that all models answer alike do not count; without others nothing differs.
    if (correct == correct[:, :1]).all():
        return 1.0
    return float(cochrans_q(correct).pvalue)


def tiers(p_values: Mapping[tuple[Item, Item], float], order: Sequence[Item]) -> dict[Item, str]:
    """Return the letters of each item: two items share a letter if they cannot be told apart.

    A letter stands for a largest possible set of items of which no two differ (compact letter
    display; Piepho 2004, "An algorithm for a letter-based representation of all-pairwise
    comparisons").

    Args:
        p_values: Corrected p-value of each pair of items.
        order: All items, the best first; it gets `a`.
    """
    place = {item: index for index, item in enumerate(order)}
    alike = nx.Graph()
    alike.add_nodes_from(order)
    alike.add_edges_from(pair for pair, p in p_values.items() if p >= ALPHA)
    sets = sorted(sorted(place[item] for item in clique) for clique in nx.find_cliques(alike))
    return {
        item: "".join(_letter(i) for i, members in enumerate(sets) if place[item] in members)
        for item in order
    }


def _letter(index: int) -> str:
    """Return a, b, .., z, aa, ab, .. for 0, 1, .., 25, 26, 27, .."""
    return (_letter(index // 26 - 1) if index >= 26 else "") + chr(ord("a") + index % 26)
