"""Attention of one query, against torch's own."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AttentionInterface

from harness.engines.local.decode_attention import ONE_QUERY

attend = AttentionInterface()[ONE_QUERY]
BATCH, LENGTH, WIDTH = 2, 33, 16


def operands(heads: int, groups: int, queries: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(BATCH, heads, queries, WIDTH, generator=generator)
    k, v = torch.randn(2, BATCH, groups, LENGTH, WIDTH, generator=generator)
    return q, k, v


class Module(torch.nn.Module):
    """What transformers hands along."""

    is_causal = True
    num_key_value_groups = 1


@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (6, 2), (3, 1)])
@pytest.mark.parametrize("mask", [None, "bool", "float"])
@pytest.mark.parametrize("scaling", [None, 0.3])
def test_one_query_is_attended_as_by_torch(
    heads: int, groups: int, mask: str | None, scaling: float | None
) -> None:
    q, k, v = operands(heads, groups)
    seen = torch.arange(LENGTH).view(1, 1, 1, LENGTH) < torch.tensor([20, 33]).view(2, 1, 1, 1)
    given = {
        None: None,
        "bool": seen,
        "float": torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min),
    }[mask]
    found, _ = attend(Module(), q, k, v, given, scaling=scaling)
    exact = F.scaled_dot_product_attention(q, k, v, attn_mask=given, scale=scaling, enable_gqa=True)
    assert torch.allclose(found, exact.transpose(1, 2), atol=1e-6)


def test_sixteen_bit_operands_are_summed_in_float32() -> None:
    q, k, v = (x.bfloat16() for x in operands(4, 2))
    found, _ = attend(Module(), q, k, v, None)
    exact = F.scaled_dot_product_attention(q.double(), k.double(), v.double(), enable_gqa=True)
    assert found.dtype is torch.bfloat16
    assert torch.allclose(found.double(), exact.transpose(1, 2), rtol=2**-8, atol=1e-6)


def test_many_queries_go_to_the_library() -> None:
    q, k, v = operands(4, 4, queries=LENGTH)
    found, _ = attend(Module(), q, k, v, None, scaling=None)
    exact = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    assert torch.allclose(found, exact.transpose(1, 2), atol=1e-6)
