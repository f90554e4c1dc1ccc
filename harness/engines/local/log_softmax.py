"""Log-probabilities of float32 logits, computed in float64.

Why not torch's float32 log-softmax: on CPUs it uses a fast exponential of 20 exact bits whose
errors do not cancel. NLLs over 49,152 tokens come out 8e-6 nat too low in the mean and up to 2e-5
off, and so does every perplexity (`scripts/bench_log_softmax.py`). In float64

    ln p_v = (x_v - max x) - ln sum_w e^(x_w - max x)

has an error of a few 1e-16, relative to the larger of 1 and the result. Equal logits give exactly
ln V. A logit of -inf has probability 0.

Float64 values exist for one piece of the logits at a time, which stays in a core's cache. On one
core of an AMD EPYC the NLLs of a window of 2048 x 49,152 logits take 0.26 s (float32 loss: 0.23 s;
the logits themselves, of SmolLM2-135M: 8.5 s) and 1 MB of memory (float32 loss: 32 MiB).
"""

from collections.abc import Iterator

import torch
from torch import Tensor

LOGITS_AT_ONCE = {"cpu": 2**17, "cuda": 2**24}
"""Logits in one piece, by type of device: 2^17 float64 fit a core's cache, 2^24 keep a GPU busy."""


def log_softmax(logits_NV: Tensor) -> Tensor:
    """Return ln p of every token of the vocabulary, float64 `[N, V]` [nat].

    A row that holds NaN or +inf, or -inf alone, becomes NaN.
    """
    below_NV = _below_max(logits_NV)
    # In place: float64 logits are twice as large as the given ones.
    return below_NV.sub_(below_NV.exp().sum(-1, keepdim=True).log_())


def token_nll(logits_NV: Tensor, targets_N: Tensor) -> Tensor:
    """Return -ln p of one token a row, float64 `[N]` [nat]; NaN as in `log_softmax`."""
    rows_N = torch.arange(len(targets_N), device=logits_NV.device)
    return -target_log_probs(logits_NV, rows_N, targets_N)[0]


def target_log_probs(logits_NV: Tensor, rows_M: Tensor, targets_M: Tensor) -> tuple[Tensor, Tensor]:
    """Return ln p of tokens, float64 `[M]` [nat], and whether no other token is more likely, `[M]`.

    NaN as in `log_softmax`; then no token is the top.

    Args:
        logits_NV: Logits `[N, V]`.
        rows_M: Row of each token, in rising order; a row may come several times, or never.
        targets_M: Tokens.
    """
    log_probs_M = torch.empty(len(targets_M), dtype=torch.float64, device=logits_NV.device)
    is_top_M = torch.empty(len(targets_M), dtype=torch.bool, device=logits_NV.device)
    row = start = 0
    for (logits,) in pieces(logits_NV.shape[-1], logits_NV):
        stop = int(torch.searchsorted(rows_M, row + len(logits)))
        rows, targets = rows_M[start:stop] - row, targets_M[start:stop]
        below_NV = _below_max(logits)
        # Read before `exp_` overwrites the logits in place.
        chosen = below_NV[rows, targets]
        # The largest logit is exactly 0 below itself.
        is_top_M[start:stop] = chosen == 0
        # ln p = -(ln sum - (x_target - max)). The sign comes last: 0.0 nat stays 0.0 nat.
        log_probs_M[start:stop] = -(below_NV.exp_().sum(-1).log_()[rows] - chosen)
        row, start = row + len(logits), stop
    return log_probs_M, is_top_M


def _below_max(logits_NV: Tensor) -> Tensor:
    """Return `logits - max of their row` as a new float64 tensor: no exponential overflows."""
    wide_NV = logits_NV.to(torch.float64, copy=True)
    return wide_NV.sub_(wide_NV.amax(-1, keepdim=True))


def pieces(vocabulary: int, *rows: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield slices of row-aligned tensors, as many rows as have `LOGITS_AT_ONCE` logits.

    Args:
        vocabulary: Logits of a row.
        rows: Tensors `[N, ...]` of equal length N, all cut at the same rows.
    """
    size = LOGITS_AT_ONCE.get(rows[0].device.type, LOGITS_AT_ONCE["cpu"])
    yield from zip(*(torch.split(x, max(1, size // vocabulary)) for x in rows), strict=True)
