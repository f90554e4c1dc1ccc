r"""Two distributions of the next token, compared over the whole vocabulary.

p is the baseline's distribution, q the candidate's, v a token of the vocabulary, and
r_v = ln q_v - ln p_v.

    KL(p || q) = sum_v p_v (ln p_v - ln q_v)       [nat]

How `kl_divergence` sums KL without cancellation:

    1. KL = -sum_v p_v r_v                         terms of both signs nearly cancel
    2. sum_v p_v e^r_v = sum_v q_v = 1             both distributions sum to one
    3. KL = sum_v p_v (e^r_v - 1 - r_v)            add step 2, which adds 0, to step 1
    4. e^r - 1 - r >= 0, and 0 only for r = 0      no term is negative; equal models give exactly 0
    5. An error e of a softmax's normalization shifts all r by e: it changes step 1 by e, and
       step 3 by e^2 / 2.

Logits are float32, everything computed from them is float64.
"""

import torch
from torch import Tensor

from harness.engines.local.log_softmax import log_softmax, pieces
from harness.engines.requests import Compared


def compare_logits(logits_NV: Tensor, baseline_NV: Tensor, targets_N: Tensor) -> Compared:
    """Return the statistics `[N]` of N tokens.

    Args:
        logits_NV: Float32 logits of the candidate before each token.
        baseline_NV: Float32 logits of the baseline.
        targets_N: The ids of the tokens.
    """
    together = pieces(logits_NV.shape[-1], logits_NV, baseline_NV, targets_N)
    found_4N = torch.cat([_compare_piece(*piece) for piece in together], dim=1)
    return Compared(*found_4N.cpu().numpy())


def _compare_piece(logits_NV: Tensor, baseline_NV: Tensor, targets_N: Tensor) -> Tensor:
    """Return the fields of `Compared`, float64 `[4, N]`."""
    same_top_N = logits_NV.argmax(-1) == baseline_NV.argmax(-1)
    log_q_NV, log_p_NV = log_softmax(logits_NV), log_softmax(baseline_NV)
    nll_q_N, nll_p_N = (-log.gather(1, targets_N[:, None])[:, 0] for log in (log_q_NV, log_p_NV))
    return torch.stack([nll_q_N, nll_p_N, kl_divergence(log_p_NV, log_q_NV), same_top_N.double()])


def kl_divergence(log_p_NV: Tensor, log_q_NV: Tensor) -> Tensor:
    """Return KL(p || q) of each row, float64 `[N]` [nat]: >= 0, and exactly 0 for equal rows."""
    p, r = log_p_NV.exp(), log_q_NV - log_p_NV
    # Step 3 of the module docstring.
    near = torch.expm1(r).sub_(r).mul_(p)
    # Where q is much larger than p, e^r overflows and p vanishes: write p e^r as q.
    far = log_q_NV.exp().sub_(p).addcmul_(p, r, value=-1)
    # Step 4 holds for exact numbers; rounding in expm1 may break it by an ulp.
    return torch.where(r < 1, near, far).clamp_min_(0).sum(-1)
