"""Codebooks: the nearest level, the lower one at a tie, for any table."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from looped import looped
from scipy.special import ndtri

from harness.formats.codebook import Codebook

NF4, FP4 = Codebook(name="nf4"), Codebook(name="fp4")
# Close together and far apart, in any order. Float32 has numbers between any two of them.
level = st.builds(math.ldexp, st.integers(-(2**10), 2**10), st.integers(-12, 12))
levels = st.lists(level, min_size=2, max_size=40, unique=True).map(tuple)
numbers = st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=20)


@settings(max_examples=150, deadline=None)
@given(table=levels, x=numbers, ties=st.sampled_from(["lower", "away"]))
def test_any_table_rounds_to_the_nearest_level(
    table: tuple[float, ...], x: list[float], ties: Any
) -> None:
    book = Codebook(name="own", levels=table, ties=ties)
    ordered = torch.tensor(sorted(table))
    middles = (ordered[1:] + ordered[:-1]) / 2
    up, down = (torch.nextafter(middles, torch.tensor(end)) for end in (math.inf, -math.inf))
    probe = torch.cat([torch.tensor(x), ordered, middles, up, down])
    rounded = book.round(probe)
    np.testing.assert_array_equal(rounded.numpy(), nearest(book, probe))
    np.testing.assert_array_equal(book.decode(book.encode(rounded)).numpy(), rounded.numpy())


def test_nf4_is_quantiles_of_the_normal_distribution() -> None:
    # Appendix E: eight levels above zero and seven below, of equal probability, scaled to [-1, 1].
    end = 0.9677083
    positive = ndtri(np.linspace(end, 0.5, 9)[:-1])
    negative = -ndtri(np.linspace(end, 0.5, 8)[:-1])
    expected = np.sort(np.concatenate([negative, [0.0], positive]))
    np.testing.assert_allclose(NF4.values().numpy(), expected / expected.max(), atol=1e-6)


def test_fp4_has_these_twelfths_and_two_zeros() -> None:
    codes = torch.arange(16).to(torch.uint8)
    twelfths = [0, 0.0625, 8, 12, 4, 6, 2, 3]
    expected = [v / 12 for v in twelfths] + [-v / 12 for v in twelfths]
    np.testing.assert_array_equal(FP4.decode(codes).numpy(), np.float32(expected))
    assert FP4.decode(codes).signbit().tolist() == [False] * 8 + [True] * 8
    assert torch.equal(FP4.encode(FP4.decode(codes)), codes)
    assert len(FP4.values()) == 15


def test_ties_go_down_or_away() -> None:
    # Midpoints that float32 holds exactly.
    table = (-4.0, -2.0, 0.0, 2.0, 4.0)
    x = torch.tensor([-3.0, -1.0, 1.0, 3.0])
    lower, away = (
        Codebook(name="own", levels=table),
        Codebook(name="own", levels=table, ties="away"),
    )
    assert lower.round(x).tolist() == [-4.0, -2.0, 0.0, 2.0]
    assert away.round(x).tolist() == [-4.0, -2.0, 2.0, 4.0]


def test_codes_are_places_in_the_table_whatever_its_order() -> None:
    book = Codebook(name="own", levels=(5.0, -1.0, 3.0))
    assert book.values().tolist() == [-1.0, 3.0, 5.0]
    assert book.encode(torch.tensor([-1.0, 3.0, 5.0])).tolist() == [1, 2, 0]
    assert (book.bits, book.max) == (2, 5.0)


@pytest.mark.parametrize(("count", "bits"), [(2, 1), (3, 2), (16, 4), (17, 5), (256, 8)])
def test_bits_are_enough_for_every_code(count: int, bits: int) -> None:
    assert Codebook(name="own", levels=tuple(float(i) for i in range(count))).bits == bits


def test_beyond_the_table_lie_its_ends() -> None:
    x = torch.tensor([3e38, math.inf, -3e38, -math.inf])
    assert NF4.round(x).tolist() == [1.0, 1.0, -1.0, -1.0]


@looped(
    ("fields", "message"),
    [
        ({"name": "nf5"}, "levels must be given unless name is nf4, fp4, got 'nf5'"),
        ({"name": "own", "levels": (1.0,)}, "two different ones at least"),
        ({"name": "own", "levels": (1.0, 1.0)}, "two different ones at least"),
        ({"name": "own", "levels": (1.0, math.nan)}, "finite numbers"),
        ({"name": "own", "levels": (1.0, math.inf)}, "finite numbers"),
        ({"name": "own", "levels": tuple(range(257))}, "at most 256"),
    ],
)
def test_what_is_no_codebook_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Codebook(**fields)


def test_levels_next_to_each_other_are_told_apart() -> None:
    book = Codebook(name="close", levels=(0.0, 2.0**-149))
    assert book.round(torch.tensor([0.0, 2.0**-149, 1.0])).tolist() == [0.0, 2.0**-149, 2.0**-149]


def nearest(book: Codebook, x: torch.Tensor) -> npt.NDArray[np.float32]:
    """Return the nearest level; at a float32 midpoint the lower one, or the one away from zero."""
    ordered = np.sort(np.array(book.levels, np.float32))
    middles = (ordered[:-1] + ordered[1:]) / np.float32(2)
    beyond = x.numpy()[:, None] > middles
    if book.ties == "away":
        beyond |= (x.numpy()[:, None] == middles) & (middles > 0)
    return ordered[beyond.sum(1)]
