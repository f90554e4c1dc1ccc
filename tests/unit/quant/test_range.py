"""Which range of a block is covered, against numpy and brute force."""

import itertools
import math
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest
import torch
from looped import looped

from harness.formats.codebook import Codebook
from harness.formats.integer import Integer
from harness.formats.minifloat import E2M1
from harness.quant.granularity import Granularity
from harness.quant.primitives import fake_quantize
from harness.quant.range import AbsMax, MseSearch, Percentile, Range, RangeRule
from harness.quant.scale import PowerOfTwoScale
from harness.quant.schemes.affine import Affine
from harness.quant.schemes.block_scaled import BlockScaled
from harness.quant.schemes.bnb4bit import QLoRAScale
from harness.quant.tensor import TensorFormat

GROUPS = Granularity(block=(1, 32))
BLOCKS = [Granularity(block=block) for block in ((-1, -1), (1, -1), (-1, 1), (1, 32), (4, 16))]
each_granularity = looped("granularity", BLOCKS, ids=lambda g: g.name)


@each_granularity
def test_absmax_covers_every_number_and_zero(granularity: Granularity) -> None:
    x = sample()
    # Some blocks are all positive, some all negative.
    x[:, :40], x[:, 60:] = x[:, :40].abs() + 1, -x[:, 60:].abs() - 1
    low, high, _ = measure(AbsMax(), x, granularity)
    blocks = blocks_of(x, granularity)
    np.testing.assert_array_equal(low.flatten().numpy(), [min(b.min(), 0) for b in blocks])
    np.testing.assert_array_equal(high.flatten().numpy(), [max(b.max(), 0) for b in blocks])
    assert low.shape == high.shape == granularity.scale_shape(x.shape)


def test_absmax_is_the_larger_magnitude_and_positive_zero_for_zeros() -> None:
    x = torch.tensor([[-3.0, -1.0], [2.0, -1.0], [0.0, -0.0]])
    absmax = measure(AbsMax(), x, Granularity(block=(1, -1))).absmax
    assert absmax.tolist() == [[3.0], [2.0], [0.0]]
    assert not absmax.signbit().any()


@looped("rule", [AbsMax(), AbsMax(ratio=0.5), Percentile(percent=90)])
@looped("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_shows_in_its_block_alone(rule: RangeRule, bad: float) -> None:
    x = sample((2, 64))
    clean = measure(rule, x, GROUPS).absmax
    x[0, 40] = bad
    found = measure(rule, x, GROUPS).absmax
    kept = torch.tensor([[True, False], [True, True]])
    assert torch.equal(found[kept], clean[kept])
    if math.isnan(bad):
        assert found[0, 1].isnan()
    elif not isinstance(rule, Percentile):
        assert found[0, 1] == math.inf


def test_nan_wins_over_infinity() -> None:
    x = torch.tensor([[math.inf, math.nan, -math.inf]])
    assert measure(AbsMax(), x, Granularity(block=(1, -1))).absmax.isnan().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("rule", [AbsMax(), Percentile()])
def test_ranges_are_float32_whatever_the_type(rule: RangeRule, dtype: torch.dtype) -> None:
    x = sample().to(dtype)
    found, exact = measure(rule, x, GROUPS), measure(rule, x.float(), GROUPS)
    assert found.low.dtype is found.high.dtype is torch.float32
    assert torch.equal(found.absmax, exact.absmax)


def test_ratio_shrinks_both_ends() -> None:
    full, half = (measure(AbsMax(ratio=r), sample(), GROUPS) for r in (1.0, 0.5))
    assert torch.equal(half.low * 2, full.low)
    assert torch.equal(half.high * 2, full.high)


@each_granularity
@looped("percent", [10.0, 50.0, 90.0, 99.0, 99.9, 100.0])
def test_percentile_is_the_nearest_rank_of_magnitudes(
    granularity: Granularity, percent: float
) -> None:
    x = sample()
    found = measure(Percentile(percent=percent), x, granularity)
    for index, block in enumerate(blocks_of(x, granularity)):
        rank = max(1, math.ceil(Fraction(str(percent)) * len(block) / 100))
        bound = np.sort(np.abs(block))[rank - 1]
        assert bound == np.percentile(np.abs(block), percent, method="inverted_cdf")
        assert found.high.flatten()[index] == min(max(block.max(), 0), bound)
        assert found.low.flatten()[index] == max(min(block.min(), 0), -bound)


FORMATS: list[TensorFormat] = [
    BlockScaled(element=Integer(bits=3), granularity=GROUPS, range=MseSearch()),
    BlockScaled(
        element=Integer(bits=4), granularity=Granularity(block=(-1, -1)), range=MseSearch()
    ),
    BlockScaled(
        element=E2M1,
        granularity=GROUPS,
        scale=PowerOfTwoScale(rule="ceil"),
        range=MseSearch(ratios=(1.0, 0.5)),
    ),
    BlockScaled(
        element=Codebook(name="nf4"), granularity=GROUPS, scale=QLoRAScale(), range=MseSearch()
    ),
    Affine(element=Integer(bits=2, narrow=False), granularity=GROUPS, range=MseSearch()),
]


def with_range(fmt: TensorFormat, rule: RangeRule) -> TensorFormat:
    keys = ("element", "granularity", "scale")
    return type(fmt)(range=rule, **{key: getattr(fmt, key) for key in keys})


def errors(fmt: TensorFormat, x: torch.Tensor) -> npt.NDArray[np.float64]:
    """Return the squared error of every block, float64."""
    squares = (fake_quantize(x, fmt).double() - x.double()).square()
    return np.array([block.sum() for block in blocks_of(squares, fmt.granularity)])


@pytest.mark.parametrize("fmt", FORMATS, ids=lambda fmt: fmt.name)
def test_search_is_the_best_of_all_ratios_in_every_block(fmt: TensorFormat) -> None:
    x = sample((8, 100))
    tried = [errors(with_range(fmt, AbsMax(ratio=r)), x) for r in fmt.range.ratios]
    found = errors(fmt, x)
    # Which of two nearly equal candidates wins is decided in float32.
    assert (found <= np.min(tried, axis=0) * (1 + 1e-5)).all()
    assert (found <= tried[0] * (1 + 1e-5)).all()
    assert found.sum() < tried[0].sum()


@pytest.mark.parametrize("ratios", [(0.9, 1.0), (1.0, 0.9)], ids=str)
def test_first_of_equal_candidates_wins(ratios: tuple[float, ...]) -> None:
    # 1.5 and 1.35 have the same power of two, so both ratios have one error; zeros have none.
    fmt = BlockScaled(
        element=E2M1,
        granularity=GROUPS,
        scale=PowerOfTwoScale(),
        range=MseSearch(ratios=ratios),
    )
    x = torch.zeros(1, 64)
    x[0, 0] = 1.5
    assert fmt.measure(x).absmax.tolist() == [[torch.tensor(1.5).mul(ratios[0]).item(), 0.0]]


def test_search_leaves_blocks_that_are_not_finite_to_the_scale() -> None:
    x = sample((2, 64))
    clean = fake_quantize(x, FORMATS[0])
    x[0, 3] = math.nan
    found = fake_quantize(x, FORMATS[0])
    assert found[0, :32].isnan().all()
    assert torch.equal(found[0, 32:], clean[0, 32:])
    assert torch.equal(found[1], clean[1])


def test_ranges_of_several_tensors_join() -> None:
    one, two = measure(AbsMax(), sample(seed=1), GROUPS), measure(AbsMax(), sample(seed=2), GROUPS)
    both = torch.cat([sample(seed=1), sample(seed=2)]).view(2, 6, 100)
    joined = one.union(two)
    assert torch.equal(joined.low, torch.minimum(one.low, two.low))
    assert torch.equal(joined.absmax, measure(AbsMax(), both, GROUPS).absmax.amax(0))


@pytest.mark.parametrize("ratio", [0.0, -1.0, 1.01])
def test_ratio_that_clips_everything_or_nothing_is_refused(ratio: float) -> None:
    with pytest.raises(ValueError, match=r"ratio must be in \(0, 1\]"):
        AbsMax(ratio=ratio)
    with pytest.raises(ValueError, match=r"ratios must be in \(0, 1\]"):
        MseSearch(ratios=(1.0, ratio))


@pytest.mark.parametrize("percent", [0.0, -1.0, 100.1])
def test_percentage_that_is_none_is_refused(percent: float) -> None:
    with pytest.raises(ValueError, match=r"percent must be in \(0, 100\]"):
        Percentile(percent=percent)


def test_search_without_candidates_is_refused() -> None:
    with pytest.raises(ValueError, match="ratios must be"):
        MseSearch(ratios=())


@pytest.mark.parametrize(
    ("rule", "suffix"),
    [
        (AbsMax(), ""),
        (AbsMax(ratio=0.9), "_clip0.9"),
        (Percentile(percent=99.9), "_p99.9"),
        (MseSearch(), "_mse"),
    ],
)
def test_name_tells_the_rule(rule: RangeRule, suffix: str) -> None:
    assert isinstance(rule, RangeRule)
    assert rule.suffix == suffix


def sample(shape: tuple[int, ...] = (6, 100), seed: int = 0) -> torch.Tensor:
    """Return heavy-tailed values, skewed, so that both ends differ."""
    rng = np.random.default_rng(seed)
    return torch.from_numpy((rng.standard_t(3, shape) + 0.3).astype(np.float32))


def measure(rule: RangeRule, x: torch.Tensor, granularity: Granularity) -> Range:
    def never(_: Range) -> torch.Tensor:
        raise AssertionError("this rule needs no trial")

    return rule.measure(x, granularity, never)


def blocks_of(x: torch.Tensor, granularity: Granularity) -> list[npt.NDArray[np.float32]]:
    """Return every block as a flat array, in the order of the scales."""
    sizes = granularity.sizes(x.shape)
    starts = [range(0, length, size) for length, size in zip(x.shape, sizes, strict=True)]
    return [
        x.numpy()[tuple(slice(a, a + s) for a, s in zip(at, sizes, strict=True))].ravel()
        for at in itertools.product(*starts)
    ]
