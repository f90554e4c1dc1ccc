"""Scores of tokens: sums of documents stand for them where they say the same to the last digit."""

from pathlib import Path

import numpy as np
import pytest

from harness.claims.scores import Tokens

DOCUMENTS = np.repeat(np.arange(8), 50)


def tokens(values: np.ndarray) -> Tokens:
    return Tokens(
        path=Path("record.json"),
        ids=("window",),
        sums=np.array([values.sum()]),
        counts=np.array([float(len(values))]),
        tokens=values,
        documents=DOCUMENTS,
        why_no_test="tokens are lost",
    )


@pytest.mark.parametrize(("step", "exact"), [(2.0**-26, True), (2.0**-24, True), (0.1, False)])
def test_multiples_of_the_grid_have_exact_sums(*, step: float, exact: bool) -> None:
    random = np.random.default_rng(0)
    one, other = (tokens(random.integers(1, 2**28, 400) * step) for _ in range(2))
    assert one.is_exact is exact
    if exact:
        found = one.by_document().minus(other.by_document()).sums
        assert (found.sums == one.minus(other).sums.sums).all()
        assert (found.counts == 50).all()


@pytest.mark.parametrize("value", [2.0**40, np.nan, np.inf])
def test_huge_values_are_not_exact(value: float) -> None:
    values = np.ones(400)
    values[7] = value
    assert not tokens(values).is_exact
