"""Attention of a single query on a CPU, written so that a compiler can fuse it.

A decode step has one query for each sequence. The flash kernel of torch 2.13 is made for many
queries: for one query over 2,048 keys it takes six times as long as reading the keys (16 heads of
128: 6.5 ms a layer on one core). Multiplications and sums are float32, as in that kernel. The
queries of a key head share its keys without a copy.

Use it compiled only: as separate operators, it would write every intermediate tensor to memory.

Shapes: B sequences, H query heads, G key heads, R = H / G queries of a key head, S queries of a
sequence, L keys, D the size of a head.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

ONE_QUERY = "harness_one_query"
"""Name of this attention in transformers, which records have as `attention`."""
SPECIAL = ("softcap", "s_aux", "position_bias")
"""Options that change the scores or the softmax. A layer with one of them runs SDPA."""


def _one_query_attention(
    module: nn.Module,
    query_BHSD: Tensor,
    key_BGLD: Tensor,
    value_BGLD: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Compute attention for transformers, `[B, H, S, D]` in and `[B, S, H, D]` out.

    SDPA runs for several queries, for special options, and for values of another size than keys.
    """
    batch, heads, queries, width = query_BHSD.shape
    special = any(options.get(name) is not None for name in SPECIAL)
    if queries > 1 or special or key_BGLD.shape[-1] != value_BGLD.shape[-1]:
        output, _ = sdpa_attention_forward(
            module, query_BHSD, key_BGLD, value_BGLD, attention_mask, scaling=scaling, **options
        )
        return output, None
    groups = key_BGLD.shape[1]
    scale = width**-0.5 if scaling is None else scaling
    # Query heads of one key head lie next to each other, so a view groups them.
    query_BGR1D = query_BHSD.view(batch, groups, heads // groups, 1, width).float()
    # Multiply and sum instead of a matmul: the compiler fuses both into one pass over the keys.
    scores_BGRL = (query_BGR1D * key_BGLD[:, :, None].float()).sum(-1) * scale
    # Empty places of a static cache are masked.
    if attention_mask is not None:
        scores_BGRL = _masked(scores_BGRL, attention_mask)
    shares_BGRL1 = scores_BGRL.softmax(-1)[..., None]
    out_BGRD = (shares_BGRL1 * value_BGLD[:, :, None].float()).sum(-2)
    return out_BGRD.view(batch, 1, heads, width).to(query_BHSD.dtype), None


def _masked(scores_BGRL: Tensor, mask_B1SL: Tensor) -> Tensor:
    """Mask scores: by False of a boolean mask, or by the large negative numbers of a float one."""
    if mask_B1SL.dtype is torch.bool:
        return scores_BGRL.masked_fill(~mask_B1SL, -torch.inf)
    return scores_BGRL + mask_B1SL


# The mask is made as for SDPA: boolean, or None where every key is seen.
AttentionInterface.register(ONE_QUERY, _one_query_attention)
AttentionMaskInterface.register(ONE_QUERY, sdpa_mask)
