"""Granularity: which elements share a scale."""

import itertools
import math

import numpy as np
import pytest
import torch
from looped import looped

from harness.quant.granularity import Granularity

Shape = tuple[int, ...]
# block, shape, shape of the scales by hand
CASES: list[tuple[tuple[int, int], Shape, Shape]] = [
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
    ((2, 4), (3, 6, 10), (3, 3, 3)),
    ((-1, 1), (3, 6, 10), (3, 1, 10)),
    ((1, 4), (2, 3, 6, 10), (2, 3, 6, 3)),
    ((1, 4), (10,), (3,)),
    ((1, -1), (10,), (1,)),
    ((-1, -1), (10,), (1,)),
    ((-1, 1), (10,), (10,)),
    ((1, 1), (6, 10), (6, 10)),
]
each_case = looped(("block", "shape", "scale_shape"), CASES)


@each_case
def test_scale_shape(block: tuple[int, int], shape: Shape, scale_shape: Shape) -> None:
    assert Granularity(block=block).scale_shape(shape) == scale_shape


@each_case
def test_blocks_and_back_is_the_same_tensor(
    block: tuple[int, int], shape: Shape, scale_shape: Shape
) -> None:
    granularity = Granularity(block=block)
    x = torch.arange(1.0, math.prod(shape) + 1).reshape(shape)
    blocks = granularity.blocked(x)
    assert blocks.shape[0::2] == scale_shape
    assert blocks.shape[1::2] == granularity.sizes(shape)
    assert blocks.sum() == x.sum()  # what fills up short blocks is zero
    back = granularity.unblocked(blocks, shape)
    assert torch.equal(back, x)
    assert back.is_contiguous()


@each_case
def test_aligned_and_expanded_scales_reach_the_elements_of_their_block(
    block: tuple[int, int], shape: Shape, scale_shape: Shape
) -> None:
    granularity = Granularity(block=block)
    scale = torch.arange(math.prod(scale_shape)).reshape(scale_shape)
    blocks = granularity.blocked(torch.zeros(shape, dtype=torch.int64))
    spread = granularity.unblocked(blocks + granularity.aligned(scale), shape)
    for index in itertools.product(*map(range, shape)):
        assert spread[index] == scale[block_of(index, block)]
    assert torch.equal(granularity.expand(scale, shape), spread)


@each_case
def test_reduced_blocks_equal_a_loop_over_elements(
    block: tuple[int, int], shape: Shape, scale_shape: Shape
) -> None:
    # All negative: a zero that fills up a short block would be the largest.
    x = -1 - torch.rand(shape, generator=torch.Generator().manual_seed(0))
    largest = np.full(scale_shape, -np.inf, np.float32)
    count = np.zeros(scale_shape)
    for index in itertools.product(*map(range, shape)):
        where = block_of(index, block)
        largest[where] = max(largest[where], float(x[index]))
        count[where] += 1
    granularity = Granularity(block=block)
    found = granularity.reduce(x, lambda blocks, axes: blocks.amax(axes))
    np.testing.assert_array_equal(found.numpy(), largest)
    counted = granularity.reduce(torch.ones(shape), lambda blocks, axes: blocks.sum(axes))
    np.testing.assert_array_equal(counted.numpy(), count)


@looped("shape", [(0, 64), (3, 0), (0,), (2, 0, 5)], ids=str)
@looped("block", [(1, -1), (1, 32), (1, 1)])
def test_empty_tensors_go_through(block: tuple[int, int], shape: Shape) -> None:
    granularity = Granularity(block=block)
    x = torch.ones(shape)
    assert granularity.unblocked(granularity.blocked(x), shape).shape == shape
    scale = torch.ones(granularity.scale_shape(shape))
    assert granularity.expand(scale, shape).shape == shape


@looped(
    ("granularity", "name"),
    [
        (Granularity(block=(-1, -1)), "tensor"),
        (Granularity(block=(1, -1)), "row"),
        (Granularity(block=(-1, 1)), "column"),
        (Granularity(block=(1, 64)), "g64"),
        (Granularity(block=(1, 64), flat=True), "b64"),
        (Granularity(block=(128, 128)), "128x128"),
        (Granularity(block=(-1, 64)), "allx64"),
    ],
    ids=str,
)
def test_name(granularity: Granularity, name: str) -> None:
    assert granularity.name == name


@pytest.mark.parametrize("block", [(0, 1), (1, -2), (0, -1)])
def test_block_without_meaning_is_refused(block: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="block must hold sizes >= 1, or -1"):
        Granularity(block=block)


@pytest.mark.parametrize("block", [(-1, 64), (2, 64)])
def test_flat_blocks_have_one_row(block: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"block must be \(1, size\) where flat"):
        Granularity(block=block, flat=True)


def test_refused_tail_names_shape_and_block_and_what_to_do() -> None:
    granularity = Granularity(block=(1, 64), tail="error")
    with pytest.raises(
        ValueError, match=r"shape=\(5, 100\), block=\(1, 64\); choose another group size"
    ):
        granularity.blocked(torch.zeros(5, 100))
    assert granularity.scale_shape((5, 128)) == (5, 2)


@looped(
    ("block", "shape", "short"),
    [
        ((1, 64), (5, 128), False),
        ((1, 64), (5, 100), True),
        ((1, 64), (5, 10), True),
        ((1, 64), (10,), True),
        ((1, -1), (5, 100), False),
        ((128, 128), (130, 128), True),
        ((1, 64), (3, 5, 100), True),
        ((1, 64), (5, 65), True),  # a group of one element
        ((1, 64), (5, 63), True),
        ((64, 64), (65, 64), True),
        ((1, 2), (5, 3), True),
        ((1, 1), (5, 3), False),
    ],
)
def test_has_tail(block: tuple[int, int], shape: Shape, short: bool) -> None:
    assert Granularity(block=block).has_tail(shape) is short


def test_block_longer_than_its_axis_is_cut_to_it_and_pads_nothing() -> None:
    granularity = Granularity(block=(1, 10**9))
    assert granularity.sizes((3, 5)) == (1, 5)
    assert granularity.blocked(torch.ones(3, 5)).numel() == 15
    assert granularity.has_tail((3, 5))
    with pytest.raises(ValueError, match="must divide"):
        Granularity(block=(1, 10**9), tail="error").sizes((3, 5))


def block_of(index: Shape, block: tuple[int, int]) -> Shape:
    """Return which block an element lies in, counted by hand."""
    sizes = ((1,) * len(index) + block)[-len(index) :]
    return tuple(0 if size == -1 else i // size for i, size in zip(index, sizes, strict=True))
