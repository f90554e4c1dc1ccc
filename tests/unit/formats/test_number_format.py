"""What every element format promises."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.formats.base import NumberFormat
from harness.formats.integer import Integer
from harness.formats.minifloat import E4M3FN

FORMATS: list[NumberFormat] = [Integer(bits=2), Integer(bits=4), Integer(bits=8), E4M3FN()]

each_format = pytest.mark.parametrize("fmt", FORMATS, ids=lambda fmt: fmt.name)
# Twice the largest FP8 magnitude, so that a part of the values saturates.
numbers = st.floats(-1000, 1000, width=32)
arrays = st.lists(numbers, min_size=1, max_size=64).map(torch.tensor)
quick = settings(max_examples=60, deadline=None)


@each_format
@quick
@given(x=arrays)
def test_rounding_is_idempotent(fmt: NumberFormat, x: torch.Tensor) -> None:
    once = fmt.round(x)
    assert torch.equal(fmt.round(once), once)


@each_format
@quick
@given(x=arrays)
def test_rounding_is_monotone(fmt: NumberFormat, x: torch.Tensor) -> None:
    rounded = fmt.round(x.sort().values)
    assert bool((rounded.diff() >= 0).all())


@each_format
@quick
@given(x=arrays)
def test_rounding_is_odd(fmt: NumberFormat, x: torch.Tensor) -> None:
    assert torch.equal(fmt.round(-x), -fmt.round(x))


@each_format
@quick
@given(x=arrays)
def test_decoded_codes_are_the_rounded_values(fmt: NumberFormat, x: torch.Tensor) -> None:
    codes = fmt.encode(x)
    assert codes.dtype is torch.uint8
    assert torch.equal(fmt.decode(codes), fmt.round(x))


@each_format
@quick
@given(x=arrays)
def test_result_is_a_nearest_value_of_the_format(fmt: NumberFormat, x: torch.Tensor) -> None:
    grid = fmt.values().double().numpy()
    distances = np.abs(grid[None, :] - x.double().numpy()[:, None])
    rounded = fmt.round(x).double().numpy()
    assert np.isin(rounded, grid).all()
    np.testing.assert_array_equal(np.abs(rounded - x.double().numpy()), distances.min(axis=1))


@each_format
@quick
@given(x=arrays)
def test_error_is_at_most_half_a_step_where_nothing_saturates(
    fmt: NumberFormat, x: torch.Tensor
) -> None:
    grid = fmt.values().double()
    inside = x[x.abs() <= fmt.max].double()
    above = torch.searchsorted(grid, inside).clamp(max=len(grid) - 1)
    step = torch.where(grid[above] == inside, 0.0, grid[above] - grid[(above - 1).clamp(min=0)])
    error = (fmt.round(inside.float()).double() - inside).abs()
    assert bool((error <= step / 2).all())


@each_format
def test_every_value_is_its_own_nearest(fmt: NumberFormat) -> None:
    values = fmt.values()
    assert torch.equal(fmt.round(values), values)
    assert bool((values.diff() > 0).all())
    assert len(values) <= 2**fmt.bits
    assert values[-1] == -values[0] == fmt.max


@each_format
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3, 5)])
def test_shape_is_kept(fmt: NumberFormat, shape: tuple[int, ...]) -> None:
    x = torch.zeros(shape)
    assert fmt.round(x).shape == shape
    assert fmt.decode(fmt.encode(x)).shape == shape


@each_format
def test_bfloat16_input_gives_float32(fmt: NumberFormat) -> None:
    rounded = fmt.round(torch.tensor([0.3, -1.7], dtype=torch.bfloat16))
    assert rounded.dtype is torch.float32
