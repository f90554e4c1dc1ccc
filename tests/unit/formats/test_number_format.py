"""Every element format keeps its promises: the nearest value, by brute force in float64."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from looped import looped

from harness.formats.base import FloatingFormat, NumberFormat
from harness.formats.codebook import Codebook
from harness.formats.hif8 import HiF8
from harness.formats.integer import Integer
from harness.formats.minifloat import E2M1, E2M3, E3M2, E4M3, E5M2, Minifloat
from harness.formats.unsigned_float import E6M2, E8M0, UnsignedFloat

Array = npt.NDArray[np.float64]

ROUNDED: list[Any] = [
    *(Integer(bits=bits) for bits in (2, 3, 4, 8)),
    Integer(bits=8, narrow=False),
    Integer(bits=4, signed=False),
    Integer(bits=8, fraction_bits=6),
    Integer(bits=4, fraction_bits=2, narrow=False),
    E4M3,
    Minifloat(exponent_bits=4, mantissa_bits=3, specials="nan", overflow="special"),
    E5M2,
    Minifloat(exponent_bits=5, mantissa_bits=2, specials="ieee", overflow="special"),
    E3M2,
    E2M3,
    E2M1,
    Minifloat(exponent_bits=1, mantissa_bits=2),
    Minifloat(exponent_bits=7, mantissa_bits=0, specials="nan", overflow="special"),
    E8M0,
    E6M2,
    UnsignedFloat(exponent_bits=3, mantissa_bits=4, bias=-3),
    HiF8(),
    HiF8(overflow="saturate"),
]
"""Formats with a choice of rounding."""
BOOKS: list[Any] = [
    Codebook(name="nf4"),
    Codebook(name="fp4"),
    Codebook(name="nf4", ties="away"),
    Codebook(name="close", levels=(0.0, 1.0, 1.0 + 2.0**-20, 1.0 + 2.0**-19, -1e6, 1e6)),
    Codebook(name="two", levels=(-3.0, 5.0), ties="away"),
]
DETERMINISTIC = ("nearest_even", "half_away", "floor")


def label(fmt: Any) -> str:
    extra = [getattr(fmt, key, "") for key in ("overflow", "ties")]
    return "-".join([fmt.name, *filter(None, extra)])


each_format = looped("fmt", [*ROUNDED, *BOOKS], ids=label)
each_rounded = looped("fmt", ROUNDED, ids=label)
each_rounding = looped("rounding", DETERMINISTIC)
floats = st.floats(width=32, allow_nan=False)
arrays = st.lists(floats, min_size=1, max_size=32).map(lambda x: torch.tensor(x))
few = settings(max_examples=40, deadline=None)


@st.composite
def minifloats(draw: st.DrawFn) -> Minifloat:
    """Any float of at most 8 bits."""
    exponent_bits = draw(st.integers(1, 7))
    mantissa_bits = draw(st.integers(0, min(6, 7 - exponent_bits)))
    specials = ["none", "nan"] + ["ieee"] * (exponent_bits > 1 and mantissa_bits > 0)
    chosen = draw(st.sampled_from(specials))
    if exponent_bits == 1 and mantissa_bits == 0:
        chosen = "none"  # NaN would take the only number but zero
    return Minifloat(
        exponent_bits=exponent_bits,
        mantissa_bits=mantissa_bits,
        specials=chosen,
        overflow=draw(
            st.sampled_from(["saturate", "special"] if chosen != "none" else ["saturate"])
        ),
        rounding=draw(st.sampled_from(DETERMINISTIC)),
    )


@each_format
def test_every_value_midpoint_and_neighbor_rounds_to_the_nearest(fmt: NumberFormat) -> None:
    x = probes(fmt)
    rounded = fmt.round(x)
    np.testing.assert_array_equal(rounded.numpy(), expected(fmt, x).astype(np.float32))


@each_rounding
@each_rounded
def test_every_rounding_follows_its_rule(fmt: Any, rounding: str) -> None:
    fmt = replace(fmt, rounding=rounding)
    x = probes(fmt)
    np.testing.assert_array_equal(fmt.round(x).numpy(), expected(fmt, x).astype(np.float32))


@few
@given(fmt=minifloats(), x=arrays)
def test_any_small_float_rounds_to_the_nearest(fmt: Minifloat, x: torch.Tensor) -> None:
    x = torch.cat([x, probes(fmt)])
    rounded = fmt.round(x)
    np.testing.assert_array_equal(rounded.numpy(), expected(fmt, x).astype(np.float32))
    codes_are_read_back(fmt, rounded[rounded.isfinite()])


@few
@given(x=arrays)
@each_format
def test_any_number_rounds_to_the_nearest(fmt: NumberFormat, x: torch.Tensor) -> None:
    np.testing.assert_array_equal(fmt.round(x).numpy(), expected(fmt, x).astype(np.float32))


@few
@given(x=arrays)
@each_format
def test_rounding_is_idempotent_and_monotone(fmt: NumberFormat, x: torch.Tensor) -> None:
    once = fmt.round(x)
    np.testing.assert_array_equal(fmt.round(once).numpy(), once.numpy())
    ordered = fmt.round(torch.cat([x, probes(fmt)]).sort().values)
    ordered = ordered[~ordered.isnan()]
    assert bool((ordered[1:] >= ordered[:-1]).all())


@each_rounding
@each_rounded
def test_rounding_is_odd_where_the_grid_is(fmt: Any, rounding: str) -> None:
    fmt = replace(fmt, rounding=rounding)
    values = fmt.values()
    if not torch.equal(values, -values.flip(0)):
        assert isinstance(fmt, UnsignedFloat | Integer)
        return
    x = probes(fmt)
    assert torch.equal(fmt.round(-x).nan_to_num(7), -fmt.round(x).nan_to_num(-7))


@each_format
def test_error_is_at_most_half_a_step_where_nothing_saturates(fmt: NumberFormat) -> None:
    values = fmt.values()
    x = torch.linspace(0, 1, 5001) * (values[-1] - values[0]) + values[0]
    x = x.clamp(values[0], values[-1])
    above = torch.searchsorted(values, x).clamp(min=1)
    step = (values[above] - values[above - 1]).double()
    error = (fmt.round(x).double() - x.double()).abs()
    # A midpoint of a codebook is rounded to float32.
    slack = 2.0**-24 * fmt.max if isinstance(fmt, Codebook) else 0.0
    assert bool((error <= step / 2 + slack).all())


@each_format
def test_values_are_ascending_finite_and_their_own_nearest(fmt: NumberFormat) -> None:
    values = fmt.values()
    assert values.dtype is torch.float32
    assert values.isfinite().all()
    assert bool((values.diff() > 0).all())
    assert len(values) <= 2**fmt.bits
    assert max(-values[0], values[-1]) >= fmt.max
    assert fmt.max in values.abs()
    assert torch.equal(fmt.round(values), values)
    assert not values[values == 0].signbit().any()


@each_format
def test_decoded_codes_are_the_rounded_values(fmt: NumberFormat) -> None:
    rounded = fmt.round(probes(fmt))
    codes_are_read_back(fmt, rounded[~rounded.isnan()])


@each_format
def test_every_code_is_read_back(fmt: NumberFormat) -> None:
    codes = all_codes(fmt)
    if isinstance(fmt, Integer) and fmt.narrow and fmt.signed:
        codes = codes[codes != 2 ** (fmt.bits - 1)]
    decoded = fmt.decode(codes)
    number = ~decoded.isnan()
    assert torch.equal(fmt.encode(decoded)[number], codes[number])
    assert torch.equal(decoded[decoded.isfinite()].unique() + 0.0, fmt.values())


@each_format
def test_nan_stays_nan_and_has_a_code_where_the_format_has_one(fmt: NumberFormat) -> None:
    # Quiet and signaling, both signs.
    bits = torch.tensor([0x7FC00000, 0x7F800001, -0x400000, -0x7FFFFF], dtype=torch.int32)
    rounded = fmt.round(bits.view(torch.float32))
    assert rounded.isnan().all()
    back = fmt.decode(fmt.encode(rounded))
    if fmt.decode(all_codes(fmt)).isnan().any():
        assert back.isnan().all()
    elif isinstance(fmt, Codebook):
        assert (back == fmt.values()[0]).all()  # what its docstring says
    else:
        assert (back == 0).all()


@each_format
@looped("shape", [(), (0,), (3,), (2, 3, 5), (0, 4)], ids=str)
def test_shape_is_kept(fmt: NumberFormat, shape: tuple[int, ...]) -> None:
    rounded = fmt.round(torch.ones(shape))
    assert rounded.shape == shape
    assert fmt.encode(rounded).shape == shape
    assert fmt.decode(fmt.encode(rounded)).shape == shape


@each_format
@looped("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_every_type_gives_float32(fmt: NumberFormat, dtype: torch.dtype) -> None:
    x = torch.tensor([0.3, -1.7], dtype=dtype)
    assert fmt.round(x).dtype is torch.float32
    assert torch.equal(fmt.round(x), fmt.round(x.float()))


@each_format
def test_input_is_left_alone_and_need_not_be_contiguous(fmt: NumberFormat) -> None:
    x = torch.linspace(-9, 9, 60).reshape(6, 10).t()
    before = x.clone()
    rounded = fmt.round(x)
    fmt.encode(rounded)
    assert torch.equal(x, before)
    assert torch.equal(rounded, fmt.round(x.contiguous()))
    assert torch.equal(fmt.encode(rounded), fmt.encode(rounded.contiguous()))
    assert torch.equal(fmt.round(torch.tensor(0.3).expand(4)), fmt.round(torch.full((4,), 0.3)))


@each_rounded
def test_name_tells_the_rounding(fmt: Any) -> None:
    names = {replace(fmt, rounding=r).name for r in (*DETERMINISTIC, "stochastic")}
    assert len(names) == 4
    assert fmt.name in names


@looped("fmt", ROUNDED, ids=label)
def test_only_integers_and_floats_have_an_exponent_for_microscaling(fmt: Any) -> None:
    assert isinstance(fmt, FloatingFormat) is isinstance(fmt, Integer | Minifloat)
    if isinstance(fmt, FloatingFormat):
        assert 2.0**fmt.exponent_max <= fmt.max < 2.0 ** (fmt.exponent_max + 1)


def probes(fmt: NumberFormat) -> torch.Tensor:
    """Return every value, every midpoint, their float32 neighbors, and what lies beyond."""
    values = fmt.values()
    step = values[-1] - values[-2]
    ends = torch.stack([values[-1] + step / 2, values[-1] + step, values[0] - step / 2])
    marks = torch.cat([values, (values[1:] + values[:-1]) / 2, ends])
    up, down = (torch.nextafter(marks, torch.tensor(end)) for end in (math.inf, -math.inf))
    far = torch.tensor([0.0, -0.0, 1e-45, -1e-45, 1e-30, 3e38, -3e38, math.inf, -math.inf])
    return torch.cat([marks, up, down, -marks, far])


def extended(fmt: Any) -> Array:
    """Return the grid, with the value that an overflowing format would have beyond its largest."""
    grid = fmt.values().double().numpy()
    if getattr(fmt, "overflow", "saturate") == "saturate":
        return grid
    step = 2.0 ** (math.frexp(fmt.max)[1] - 1 - getattr(fmt, "mantissa_bits", 1))
    return np.concatenate([[-fmt.max - step], grid, [fmt.max + step]])


def nearest(fmt: Any, x: torch.Tensor) -> Array:
    """Return what each number rounds to, from the list of values and the tie rule alone."""
    grid = extended(fmt)
    v = np.clip(x.double().numpy(), grid[0], grid[-1])
    above = np.searchsorted(grid, v)
    high = grid[above]
    low = np.where(high == v, v, grid[np.maximum(above - 1, 0)])
    step = np.where(high > low, high - low, 1.0)
    toward_zero = np.where(np.abs(low) < np.abs(high), low, high)
    away = np.where(np.abs(low) < np.abs(high), high, low)
    to_even = np.where(np.round(low / step) % 2 == 0, low, high)
    rule = getattr(fmt, "rounding", "lower")
    if rule == "floor":
        return toward_zero
    if isinstance(fmt, Codebook):
        middle = (low.astype(np.float32) + high.astype(np.float32)) / np.float32(2)
        below, tie = v < middle, v == middle
        at_tie = np.where((fmt.ties == "away") & (middle > 0), high, low)
    else:
        below, tie = v - low < high - v, v - low == high - v
        at_tie = away if rule == "half_away" else to_even
    return np.where(tie, at_tie, np.where(below, low, high))


def expected(fmt: Any, x: torch.Tensor) -> Array:
    """Return `nearest` with what the format says of overflow."""
    found = nearest(fmt, x)
    if getattr(fmt, "overflow", "saturate") == "saturate":
        return found
    special = math.nan if getattr(fmt, "specials", "") == "nan" else math.inf
    return np.where(np.abs(found) > fmt.max, np.copysign(special, found), found)


def all_codes(fmt: Any) -> torch.Tensor:
    count = len(fmt.levels) if isinstance(fmt, Codebook) else 2**fmt.bits
    return torch.arange(count).to(torch.uint8)


def codes_are_read_back(fmt: NumberFormat, rounded: torch.Tensor) -> None:
    codes = fmt.encode(rounded)
    back = fmt.decode(codes)
    assert codes.dtype is torch.uint8
    assert codes.int().max() < 2**fmt.bits
    np.testing.assert_array_equal(back.numpy(), rounded.numpy())
    if fmt.decode(all_codes(fmt)).eq(0).sum() == 2:
        assert torch.equal(back.signbit(), rounded.signbit())
