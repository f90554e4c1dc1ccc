"""Random tensors of several kinds, as a Hypothesis strategy for comparisons with other libraries."""

from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import strategies as st

Shape = tuple[int, ...]


def _normal(shape: Shape, generator: torch.Generator) -> torch.Tensor:
    rows = torch.rand(*shape[:-1], 1, generator=generator)
    return torch.randn(shape, generator=generator) * rows


def _heavy(shape: Shape, generator: torch.Generator) -> torch.Tensor:
    # Of 1 - rand, which is never 0: the quotient's tail falls with the square of its size.
    return torch.randn(shape, generator=generator) / (1 - torch.rand(shape, generator=generator))


def _outlier_columns(shape: Shape, generator: torch.Generator) -> torch.Tensor:
    columns = torch.rand(shape[-1], generator=generator) < 1 / 32
    return torch.randn(shape, generator=generator) * torch.where(columns, 100.0, 1.0)


def _ties(shape: Shape, generator: torch.Generator) -> torch.Tensor:
    quarters = torch.randint(-32, 33, shape, generator=generator) / 4
    return torch.ldexp(quarters, torch.randint(-9, 10, (*shape[:-1], 1), generator=generator))


def _wide(shape: Shape, generator: torch.Generator) -> torch.Tensor:
    exponents = 40 * torch.rand(shape, generator=generator) - 20
    return torch.randn(shape, generator=generator) * exponents.exp2()


def _edges(shape: Shape, generator: torch.Generator) -> torch.Tensor:
    """Return powers of two, half of them off by one unit in the last place, of either sign."""
    units = 1 + torch.randint(-1, 2, shape, generator=generator) * 2.0**-23
    signs = 1 - 2 * torch.randint(0, 2, shape, generator=generator)
    return torch.ldexp(units * signs, torch.randint(-20, 21, shape, generator=generator))


def _positive(shape: Shape, generator: torch.Generator) -> torch.Tensor:
    return 1 + torch.rand(shape, generator=generator)


def _zeros(shape: Shape, generator: torch.Generator) -> torch.Tensor:
    """Return normal numbers, of whose runs of 16 half are zeros, of either sign."""
    kept = torch.randint(0, 2, (*shape[:-1], -(-shape[-1] // 16)), generator=generator)
    kept = kept.repeat_interleave(16, -1)[..., : shape[-1]]
    return torch.randn(shape, generator=generator) * kept


def _tiny(shape: Shape, generator: torch.Generator) -> torch.Tensor:
    """Return numbers around the smallest normal one of float32, most of them subnormal."""
    exponents = torch.randint(-149, -120, (*shape[:-1], 1), generator=generator)
    return torch.ldexp(torch.randn(shape, generator=generator), exponents)


def _huge(shape: Shape, generator: torch.Generator) -> torch.Tensor:
    """Return numbers up to the largest of float32."""
    return torch.randn(shape, generator=generator).clamp(-4, 4) * 2.0**125


def _special(shape: Shape, generator: torch.Generator) -> torch.Tensor:
    """Return normal numbers, one in 64 of them NaN or an infinity."""
    special = torch.tensor([torch.nan, torch.inf, -torch.inf])
    special = special[torch.randint(0, 3, shape, generator=generator)]
    return torch.where(
        torch.rand(shape, generator=generator) < 1 / 64,
        special,
        torch.randn(shape, generator=generator),
    )


KINDS = {
    "normal": _normal,
    "heavy": _heavy,
    "outlier_columns": _outlier_columns,
    "ties": _ties,
    "wide": _wide,
    "edges": _edges,
    "positive": _positive,
    "zeros": _zeros,
    "tiny": _tiny,
    "huge": _huge,
    "special": _special,
}
USUAL = tuple(kind for kind in KINDS if kind not in ("tiny", "huge", "special"))
SHAPES = ((1, 128), (12, 256), (48, 512), (3, 8, 128))
DTYPES = (torch.float32, torch.bfloat16)

Tensors = Callable[..., st.SearchStrategy[torch.Tensor]]
AssertEqual = Callable[..., None]


def _sample(kind: str, shape: Shape, dtype: torch.dtype, seed: int) -> torch.Tensor:
    return KINDS[kind](shape, torch.Generator().manual_seed(seed)).to(dtype)


@pytest.fixture(scope="session")
def tensors() -> Tensors:
    """A function that returns a strategy of random tensors; its arguments add kinds to the usual ones."""

    def strategy(
        *more: str, shapes: Sequence[Shape] = SHAPES, dtypes: Sequence[torch.dtype] = DTYPES
    ) -> st.SearchStrategy[torch.Tensor]:
        return st.builds(
            _sample,
            st.sampled_from(USUAL + more),
            st.sampled_from(shapes),
            st.sampled_from(dtypes),
            st.integers(0, 2**32 - 1),
        )

    return strategy


@pytest.fixture(scope="session")
def assert_equal() -> AssertEqual:
    """A function that asserts equality of all elements, or of those chosen: NaN to NaN, +0 to -0."""

    def check(ours: torch.Tensor, theirs: torch.Tensor, where: torch.Tensor | None = None) -> None:
        assert ours.shape == theirs.shape
        ours, theirs = ours.double(), theirs.double()
        wrong = (ours != theirs) & ~(ours.isnan() & theirs.isnan())
        if where is not None:
            wrong &= where
        first = [(a.item(), b.item()) for a, b in zip(ours[wrong], theirs[wrong], strict=True)][:3]
        assert not wrong.any(), f"{wrong.sum()} of {wrong.numel()} differ; ours and theirs: {first}"

    return check
