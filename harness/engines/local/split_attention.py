"""Attention over some of the keys, in a form that can be joined with attention over the others.

Derivation. Let s_k be the score of key k and v_k its value. For a set A of keys let

    out_A = sum_{k in A} e^{s_k} v_k / Z_A,    Z_A = sum_{k in A} e^{s_k},    lse_A = ln Z_A

1. Softmax attention over disjoint sets A and B together has both sums over both sets:

       out = (sum_A e^{s_k} v_k + sum_B e^{s_k} v_k) / (Z_A + Z_B)

2. By the definition of out_A, sum_A e^{s_k} v_k = Z_A out_A. So out is the mean of both parts,
   weighted by their sums of exponentials:

       out = (e^{lse_A} out_A + e^{lse_B} out_B) / (e^{lse_A} + e^{lse_B})

3. The weight of B is a sigmoid, which no large score overflows:

       w = e^{lse_B} / (e^{lse_A} + e^{lse_B}) = sigmoid(lse_B - lse_A)

4. `join` computes out = out_A + w (out_B - out_A), and ln(Z_A + Z_B), so that a further part can
   be joined.

So keys that many rows share are multiplied once for all rows, and never copied. (Milakov and
Gimelshein, "Online normalizer calculation for softmax", 2018; FlashAttention rests on the same
identity.) All of it is float32, whatever the dtype of the model.
"""

from typing import NamedTuple

import torch
from torch import Tensor

SCORES_BYTES = 2**28
"""Size of the scores that exist at once where no fused kernel computes attention [byte]."""


class Part(NamedTuple):
    """Attention over some of the keys."""

    out: Tensor
    """`[B, H, Q, D]`, float32."""
    lse: Tensor
    """ln of the sum of exponentials of the scores, `[B, H, Q]`; -inf where no key is allowed."""


def join(a: Part, b: Part) -> Part:
    """Return attention over the keys of both parts; steps 3 and 4 of the module."""
    share = torch.sigmoid(b.lse - a.lse)[..., None]
    return Part(torch.lerp(a.out, b.out, share), torch.logaddexp(a.lse, b.lse))


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    *,
    causal: bool = False,
    allowed: Tensor | None = None,
    softcap: float | None = None,
) -> Part:
    """Return attention of queries `[B, H, Q, D]` over keys and values `[B, H, K, D]`.

    Args:
        q: Queries.
        k: Keys.
        v: Values; the size of their last axis may differ.
        scale: Factor of the scores.
        causal: Query i sees keys 0..i; then Q = K.
        allowed: Boolean mask that broadcasts to `[B, H, Q, K]`; a key with False is never seen.
        softcap: Scores become `softcap * tanh(score / softcap)`.
    """
    q, k, v = q.float(), k.float(), v.float()
    fused = q.device.type == "cpu" and allowed is None and softcap is None
    if fused and q.shape[-1] == v.shape[-1]:
        # The kernel behind scaled_dot_product_attention, whose wrapper drops the lse.
        flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # noqa: SLF001
        return Part(*flash(q, k, v, 0.0, causal, attn_mask=None, scale=scale))
    if causal:
        own = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).tril()
        allowed = own if allowed is None else own & allowed
    # As many queries at a time as have float32 scores of `SCORES_BYTES`.
    rows = max(1, SCORES_BYTES // (4 * q.shape[0] * q.shape[1] * k.shape[-2]))
    parts = []
    for start in range(0, q.shape[-2], rows):
        some = slice(start, start + rows)
        mask = allowed
        # A mask of one row serves all queries.
        if mask is not None and mask.shape[-2] != 1:
            mask = mask[..., some, :]
        parts.append(_attend_with_scores(q[..., some, :], k, v, scale, mask, softcap))
    return Part(torch.cat([p.out for p in parts], -2), torch.cat([p.lse for p in parts], -1))


def _attend_with_scores(
    q: Tensor, k: Tensor, v: Tensor, scale: float, allowed: Tensor | None, softcap: float | None
) -> Part:
    """Return what `attend` returns, by plain matmuls that write scores `[B, H, Q, K]` to memory."""
    scores = q @ k.transpose(-1, -2) * scale
    # The cap comes before the mask: tanh would turn -inf into -softcap.
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if allowed is not None:
        scores = scores.masked_fill(~allowed, float("-inf"))
    lse = scores.logsumexp(-1)
    # Without an allowed key, scores and lse are -inf and their difference is NaN. The weights
    # become 0; with an lse of -inf, `join` then gives this part no share.
    weights = (scores - lse[..., None]).exp().nan_to_num(nan=0.0)
    return Part(weights @ v, lse)
