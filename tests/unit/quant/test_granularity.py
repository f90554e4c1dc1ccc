"""Granularity: which elements share a scale."""

import itertools
import math

import numpy as np
import pytest
import torch

from harness.quant.granularity import Granularity

ROW, TENSOR = Granularity(block=(1, -1)), Granularity(block=(-1, -1))

# block, shape, shape of the scales by hand
CASES: list[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]] = [
    ((-1, -1), (6, 10), (1, 1)),
    ((1, -1), (6, 10), (6, 1)),
    ((-1, 1), (6, 10), (1, 10)),
    ((1, 4), (6, 10), (6, 3)),
    ((1, 5), (6, 10), (6, 2)),
    ((1, 64), (6, 10), (6, 1)),
    ((4, 4), (6, 10), (2, 3)),
    ((128, 128), (6, 10), (1, 1)),
    ((-1, 3), (6, 10), (1, 4)),
    ((1, -1), (3, 6, 10), (3, 6, 1)),
    ((-1, -1), (3, 6, 10), (3, 1, 1)),
    ((1, 4), (3, 6, 10), (3, 6, 3)),
    ((2, -1, 4), (3, 6, 10), (2, 1, 3)),
    ((4,), (6, 10), (6, 3)),
    ((-1,), (10,), (1,)),
]
each_case = pytest.mark.parametrize(("block", "shape", "scale_shape"), CASES)


def block_of(
    index: tuple[int, ...], shape: tuple[int, ...], block: tuple[int, ...]
) -> tuple[int, ...]:
    """Return which block an element lies in, counted by hand."""
    whole = (1,) * (len(shape) - len(block)) + block
    return tuple(0 if size == -1 else i // size for i, size in zip(index, whole, strict=True))


def naive_absmax(x: np.ndarray, block: tuple[int, ...], scale_shape: tuple[int, ...]) -> np.ndarray:
    found = np.zeros(scale_shape, np.float32)
    for index in itertools.product(*map(range, x.shape)):
        where = block_of(index, x.shape, block)
        found[where] = max(found[where], abs(x[index]))
    return found


@each_case
def test_scale_shape(
    block: tuple[int, ...], shape: tuple[int, ...], scale_shape: tuple[int, ...]
) -> None:
    assert Granularity(block=block).scale_shape(shape) == scale_shape


@each_case
def test_blocks_and_back_is_the_same_tensor(
    block: tuple[int, ...], shape: tuple[int, ...], scale_shape: tuple[int, ...]
) -> None:
    granularity = Granularity(block=block)
    x = torch.arange(1.0, math.prod(shape) + 1).reshape(shape)
    blocks = granularity.blocked(x)
    assert blocks.shape[0::2] == scale_shape
    assert blocks.shape[1::2] == granularity.sizes(shape)
    back = granularity.unblocked(blocks, shape)
    assert torch.equal(back, x)
    assert back.is_contiguous()


@each_case
def test_aligned_scales_reach_the_elements_of_their_block(
    block: tuple[int, ...], shape: tuple[int, ...], scale_shape: tuple[int, ...]
) -> None:
    granularity = Granularity(block=block)
    scale = torch.arange(math.prod(scale_shape)).reshape(scale_shape)
    blocks = granularity.blocked(torch.zeros(shape, dtype=torch.int64))
    spread = granularity.unblocked(blocks + granularity.aligned(scale), shape)
    for index in itertools.product(*map(range, shape)):
        assert spread[index] == scale[block_of(index, shape, block)]


@each_case
def test_absmax_equals_a_loop_over_elements(
    block: tuple[int, ...], shape: tuple[int, ...], scale_shape: tuple[int, ...]
) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    found = Granularity(block=block).absmax(x)
    assert found.dtype is torch.float32
    np.testing.assert_array_equal(found.numpy(), naive_absmax(x.numpy(), block, scale_shape))


def test_absmax_of_only_negative_values_is_positive() -> None:
    assert ROW.absmax(torch.tensor([[-3.0, -1.0]])).tolist() == [[3.0]]


def test_absmax_of_bfloat16_is_float32() -> None:
    assert TENSOR.absmax(torch.ones(2, 2, dtype=torch.bfloat16)).dtype is torch.float32


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 3, 5])
def test_absmax_shows_what_is_not_finite_in_its_block_alone(bad: float, place: int) -> None:
    x = torch.ones(2, 6)
    x[0, place] = bad
    found = ROW.absmax(x)
    np.testing.assert_array_equal(found.numpy(), [[abs(bad)], [1.0]])


def test_absmax_of_a_block_with_nan_and_infinity_is_nan() -> None:
    assert TENSOR.absmax(torch.tensor([[math.inf, math.nan, -math.inf]])).isnan().all()


@pytest.mark.parametrize(
    ("block", "name"),
    [
        ((-1, -1), "tensor"),
        ((-1,), "tensor"),
        ((1, -1), "row"),
        ((1, 64), "g64"),
        ((1, 1, 32), "g32"),
        ((128, 128), "128x128"),
        ((-1, 64), "allx64"),
    ],
)
def test_name(block: tuple[int, ...], name: str) -> None:
    assert Granularity(block=block).name == name


@pytest.mark.parametrize("block", [(), (0,), (1, -2), (0, -1)])
def test_block_without_meaning_is_refused(block: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="block must hold sizes >= 1, or -1"):
        Granularity(block=block)


def test_tensor_with_too_few_axes_is_refused() -> None:
    with pytest.raises(ValueError, match=r"at least 2 axes, got shape \(5,\)"):
        ROW.sizes((5,))


def test_refused_tail_names_shape_and_block_and_what_to_do() -> None:
    granularity = Granularity(block=(1, 64), tail="error")
    with pytest.raises(
        ValueError, match=r"shape=\(5, 100\), block=\(1, 64\); choose another group size"
    ):
        granularity.absmax(torch.zeros(5, 100))
    assert granularity.scale_shape((5, 128)) == (5, 2)


@pytest.mark.parametrize(
    ("block", "shape", "short"),
    [
        ((1, 64), (5, 128), False),
        ((1, 64), (5, 100), True),
        ((1, 64), (5, 10), True),
        ((1, -1), (5, 100), False),
        ((128, 128), (130, 128), True),
        ((1, 64), (3, 5, 100), True),
    ],
)
def test_has_tail(block: tuple[int, ...], shape: tuple[int, ...], short: bool) -> None:
    assert Granularity(block=block).has_tail(shape) is short


def test_block_longer_than_its_axis_is_cut_to_it_and_pads_nothing() -> None:
    granularity = Granularity(block=(1, 10**9))
    assert granularity.sizes((3, 5)) == (1, 5)
    assert granularity.blocked(torch.ones(3, 5)).numel() == 15
    assert granularity.has_tail((3, 5))
    with pytest.raises(ValueError, match="must divide"):
        Granularity(block=(1, 10**9), tail="error").sizes((3, 5))
