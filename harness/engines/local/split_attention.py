"""Attention in parts: over some keys, with what is needed to join it to attention over others.

Softmax attention over keys A and B together is the mean of both parts, weighted by their sums of exponentials:

    out = (e^lse_A out_A + e^lse_B out_B) / (e^lse_A + e^lse_B),     lse = log sum exp(scores)

(Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018; the same identity is behind FlashAttention.) So
attention over keys that many rows share is one product for all rows, and those keys are never copied.
All of it is float32, whatever the type of the model.
"""

from typing import NamedTuple

import torch
from torch import Tensor

SCORES_BYTES = 2**28
"""Size of the scores that the plain computation holds at once [byte]."""


class Part(NamedTuple):
    """Attention over some of the keys."""

    out: Tensor
    """`[B, H, Q, D]`, float32."""
    lse: Tensor
    """`[B, H, Q]`: log of the sum of exponentials of the scores; -inf where no key is allowed."""


def join(a: Part, b: Part) -> Tensor:
    """Return attention over the keys of both parts together, `[B, H, Q, D]`."""
    share = torch.sigmoid(b.lse - a.lse)[..., None]
    return torch.lerp(a.out, b.out, share)


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
        v: Values; their last size may differ.
        scale: Factor of the scores.
        causal: Query i sees keys 0..i only; then Q = K.
        allowed: Boolean mask that broadcasts to `[B, H, Q, K]`; False is never seen.
        softcap: Scores become `softcap * tanh(score / softcap)`.
    """
    q, k, v = q.float(), k.float(), v.float()
    fused = q.device.type == "cpu" and allowed is None and softcap is None
    if fused and q.shape[-1] == v.shape[-1]:
        # The kernel behind scaled_dot_product_attention on the CPU, which returns the sums that its wrapper drops.
        flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # noqa: SLF001
        return Part(*flash(q, k, v, 0.0, causal, attn_mask=None, scale=scale))
    if causal:
        own = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).tril()
        allowed = own if allowed is None else own & allowed
    rows = max(1, SCORES_BYTES // (4 * q.shape[0] * q.shape[1] * k.shape[-2]))
    parts = []
    for start in range(0, q.shape[-2], rows):
        some = slice(start, start + rows)
        mask = allowed
        if mask is not None and mask.shape[-2] != 1:
            mask = mask[..., some, :]
        parts.append(_plain(q[..., some, :], k, v, scale, mask, softcap))
    return Part(torch.cat([p.out for p in parts], -2), torch.cat([p.lse for p in parts], -1))


def _plain(
    q: Tensor, k: Tensor, v: Tensor, scale: float, allowed: Tensor | None, softcap: float | None
) -> Part:
    scores = q @ k.transpose(-1, -2) * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if allowed is not None:
        scores = scores.masked_fill(~allowed, float("-inf"))
    lse = scores.logsumexp(-1)
    # Where no key is allowed the weights are NaN; such a part has no share in a join.
    weights = (scores - lse[..., None]).exp().nan_to_num(nan=0.0)
    return Part(weights @ v, lse)
