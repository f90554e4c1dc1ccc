"""Attention in parts against attention over all keys, in float64."""

import pytest
import torch

from harness.engines.local import split_attention as attention
from harness.engines.local.split_attention import attend, join

SHAPE = (2, 3, 7, 8)


def operands(num_keys: int, size: int = 8) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(num_keys)
    q = torch.randn(SHAPE, generator=generator)
    k = torch.randn(2, 3, num_keys, 8, generator=generator)
    return q, k, torch.randn(2, 3, num_keys, size, generator=generator)


def exact(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    allowed: torch.Tensor | None = None,
    softcap: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    scores = 0.3 * torch.einsum("bhqd,bhkd->bhqk", q.double(), k.double())
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    weights = scores.exp()
    if allowed is not None:
        weights = weights * allowed
    sums = weights.sum(-1)
    return torch.einsum("bhqk,bhkd->bhqd", weights, v.double()) / sums[..., None], sums.log()


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [8, 5], ids=["kernel", "plain"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_output_and_sums_are_those_of_softmax(size: int, dtype: torch.dtype) -> None:
    q, k, v = (x.to(dtype) for x in operands(11, size))
    part = attend(q, k, v, 0.3)
    out, lse = exact(q, k, v)
    assert part.out.dtype is part.lse.dtype is torch.float32
    close(part.out, out)
    close(part.lse, lse)


@pytest.mark.parametrize("size", [8, 5], ids=["kernel", "plain"])
def test_causal_queries_see_nothing_behind_them(size: int) -> None:
    q, k, v = operands(7, size)
    part = attend(q, k, v, 0.3, causal=True)
    out, lse = exact(q, k, v, torch.ones(7, 7).tril())
    close(part.out, out)
    close(part.lse, lse)


@pytest.mark.parametrize("causal", [True, False])
def test_masks_and_soft_caps_are_kept(causal: bool) -> None:
    q, k, v = operands(7)
    allowed = torch.rand(7, 7, generator=torch.Generator().manual_seed(1)) < 0.6
    allowed.fill_diagonal_(True)
    part = attend(q, k, v, 0.3, causal=causal, allowed=allowed, softcap=0.4)
    seen = allowed & torch.ones(7, 7).bool().tril() if causal else allowed
    out, lse = exact(q, k, v, seen, softcap=0.4)
    close(part.out, out)
    close(part.lse, lse)


@pytest.mark.parametrize("rows", [1, 3, 100])
def test_scores_in_pieces_are_the_same(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = operands(11, 5)
    allowed = torch.arange(11) < torch.arange(3, 10)[:, None]
    expected = attend(q, k, v, 0.3, allowed=allowed)
    monkeypatch.setattr(attention, "SCORES_BYTES", 4 * 2 * 3 * 11 * rows)
    found = attend(q, k, v, 0.3, allowed=allowed)
    torch.testing.assert_close(found.out, expected.out)
    torch.testing.assert_close(found.lse, expected.lse)


@pytest.mark.parametrize("cut", [1, 4, 10])
def test_joined_parts_are_attention_over_all_keys(cut: int) -> None:
    q, k, v = operands(11)
    parts = [
        attend(q, k[:, :, some], v[:, :, some], 0.3) for some in (slice(cut), slice(cut, None))
    ]
    joined = join(*parts)
    out, lse = exact(q, k, v)
    close(joined.out, out)
    close(joined.lse, lse)


def test_part_without_an_allowed_key_has_no_share() -> None:
    q, k, v = operands(11)
    nothing = attend(q, k, v, 0.3, allowed=torch.zeros(7, 11, dtype=torch.bool))
    part = attend(q, k, v, 0.3)
    assert nothing.lse.eq(-torch.inf).all()
    for joined in (join(nothing, part), join(part, nothing)):
        assert torch.equal(joined.out, part.out)
        assert torch.equal(joined.lse, part.lse)


def test_large_scores_do_not_overflow() -> None:
    q, k, v = operands(11)
    parts = [
        attend(1e3 * q, k[:, :, some], v[:, :, some], 1.0) for some in (slice(5), slice(5, None))
    ]
    whole = attend(1e3 * q, k, v, 1.0)
    assert join(*parts).out.isfinite().all()
    torch.testing.assert_close(join(*parts).out, whole.out, rtol=1e-4, atol=1e-4)
