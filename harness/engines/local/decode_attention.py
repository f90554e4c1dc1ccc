"""Attention of a single token on a CPU, as plain arithmetic that a compiler can fuse.

The flash kernel of torch 2.13 is made for many queries: for one query over 2,048 keys it takes six times as long as
reading the keys does (16 heads of 128: 6.5 ms a layer on one core). Decoding is one query a sequence. Products and sums are
float32, as in that kernel; queries of the same key head share the keys without a copy.

Only worth compiling: as separate operators every product would be written to memory.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

NAME = "harness_one_query"


def _attention(
    module: nn.Module,
    query_BHSD: Tensor,
    key_BGLD: Tensor,
    value_BGLD: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Serve transformers' attention interface; whatever is not plain attention of one query goes to SDPA."""
    batch, heads, queries, width = query_BHSD.shape
    special = any(options.get(name) is not None for name in ("softcap", "s_aux", "position_bias"))
    if queries > 1 or special or key_BGLD.shape[-1] != value_BGLD.shape[-1]:
        output, _ = sdpa_attention_forward(
            module, query_BHSD, key_BGLD, value_BGLD, attention_mask, scaling=scaling, **options
        )
        return output, None
    groups = key_BGLD.shape[1]
    scale = width**-0.5 if scaling is None else scaling
    query_BGR1D = query_BHSD.view(batch, groups, heads // groups, 1, width).float()
    scores_BGRL = (query_BGR1D * key_BGLD[:, :, None].float()).sum(-1) * scale
    if attention_mask is not None:
        scores_BGRL = _masked(scores_BGRL, attention_mask)
    shares_BGRL1 = scores_BGRL.softmax(-1)[..., None]
    out_BGRD = (shares_BGRL1 * value_BGLD[:, :, None].float()).sum(-2)
    return out_BGRD.view(batch, 1, heads, width).to(query_BHSD.dtype), None


def _masked(scores_BGRL: Tensor, mask_B1SL: Tensor) -> Tensor:
    """Leave out the keys that a mask forbids: false, or very negative."""
    if mask_B1SL.dtype is torch.bool:
        return scores_BGRL.masked_fill(~mask_B1SL, -torch.inf)
    return scores_BGRL + mask_B1SL


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
