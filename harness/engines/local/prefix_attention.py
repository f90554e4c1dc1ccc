"""Attention of packed rows after a shared prefix.

Everything else in a transformer treats tokens one by one, so only attention must know that a
packed sequence holds several rows. It has two parts, joined by `split_attention.join`:

1. Over the prefix. All N queries multiply the same P keys in one matmul. With grouped queries the
   heads of a group are further queries of the same keys, so nothing is repeated for them.
2. Over the row itself. Causal, on `[B, S]` with padding, which is short; or, after `append`, from
   one new token to all tokens of its row.

The decomposition is Hydragen's (Juravsky et al., "Hydragen: High-Throughput LLM Inference with
Shared Prefixes", 2024). transformers calls a registered function for attention; `packed_attention`
puts ours in the place of the model's own for one pass. Layers with a sliding window see what lies
in it. `packed_rows` names the shapes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from harness.engines.local.packed_rows import PackedRows
from harness.engines.local.split_attention import Part, attend, join
from harness.engines.local.split_model import SplitModel
from harness.models.architecture import attention

SHARED_PREFIX = "harness_shared_prefix"
"""Name of this attention in transformers."""
KNOWN_TENSORS = ("position_ids", "cache_position", "s_aux")
"""Tensors that layers pass to attention and that need no more here: positions are applied to
queries and keys already, and `s_aux` holds the sinks. Any other tensor is an error."""


class Scoring(NamedTuple):
    """How a layer scores keys."""

    scale: float
    window: int | None
    """Number of last positions that a query sees, its own included; None is all."""
    softcap: float | None
    sinks: Tensor | None
    """Score of a key without a value, for each head `[H]`: it takes a share of the softmax."""


def attend_packed(
    rows: PackedRows, layer: int, q: Tensor, k: Tensor, v: Tensor, how: Scoring
) -> Tensor:
    """Return attention `[H, N, D]` of one layer.

    Args:
        rows: The rows that run.
        layer: Index of the layer.
        q: Packed queries `[H, N, D]`.
        k: Packed keys `[G, N, D]` of the rows, without the prefix.
        v: Packed values `[G, N, D]`, likewise.
        how: Scale, window, cap and sinks of the layer.
    """
    over_row = (_over_step if rows.steps else _over_row)(rows, layer, q, k, v, how)
    over_prefix = _over_prefix(rows, layer, q, how)
    out = join(over_prefix, over_row)
    if how.sinks is not None:
        # A sink of score s adds e^s to the sum Z of exponentials and nothing to the values:
        # out Z / (Z + e^s) = out sigmoid(ln Z - s).
        sums = torch.logaddexp(over_prefix.lse, over_row.lse)
        out = out * torch.sigmoid(sums - how.sinks.float()[:, None])[..., None]
    return out.to(q.dtype)


def _over_prefix(rows: PackedRows, layer: int, q_HND: Tensor, how: Scoring) -> Part:
    """Attend from every token to the prefix."""
    keys, values = rows.prefix.layers[layer]
    heads, num, size = q_HND.shape
    # `[H, N, D]` -> `[1, G, H / G * N, D]`: the heads of a group are queries of the same keys.
    q = q_HND.reshape(1, keys.shape[1], -1, size)
    allowed = None
    # One more than the last position of any row.
    longest = rows.prefix.length + rows.is_token.shape[1] + rows.steps
    # A mask rules out the fast kernel, so there is one only where a window is short enough to bite.
    if how.window is not None and longest > how.window:
        behind_N1 = (rows.prefix.length + rows.offsets())[:, None]
        seen_NP = behind_N1 - torch.arange(rows.prefix.length, device=q.device) < how.window
        allowed = seen_NP.repeat(heads // keys.shape[1], 1)
    part = attend(q, keys, values, how.scale, allowed=allowed, softcap=how.softcap)
    return Part(part.out.reshape(heads, num, -1), part.lse.reshape(heads, num))


def _over_row(
    rows: PackedRows, layer: int, q_HND: Tensor, k_GND: Tensor, v_GND: Tensor, how: Scoring
) -> Part:
    """Attend from every token of a row to itself and the tokens of the row before it."""
    # `[H, N, D]` -> `[B, H, S, D]`. Padding holds the first token: as a key it is behind every
    # real query, as a query its result is dropped below.
    q, k, v = (x[:, rows.places].transpose(0, 1) for x in (q_HND, k_GND, v_GND))
    if rows.keep:
        rows.own[layer] = (k, v)
    # Rows are short: repeating their keys for each query head costs little.
    group = q.shape[1] // k.shape[1]
    k, v = (x.repeat_interleave(group, 1) for x in (k, v))
    allowed = None
    if how.window is not None and q.shape[-2] > how.window:
        column = torch.arange(q.shape[-2], device=q.device)
        allowed = column[:, None] - column < how.window
    part = attend(q, k, v, how.scale, causal=True, allowed=allowed, softcap=how.softcap)
    # Back to the packed order, padding dropped.
    return Part(*(x.transpose(0, 1)[:, rows.is_token] for x in part))


def _over_step(
    rows: PackedRows, layer: int, q_HBD: Tensor, k_GBD: Tensor, v_GBD: Tensor, how: Scoring
) -> Part:
    """Attend from one new token of every row to its row; keep the new keys and values."""
    new = (x.transpose(0, 1)[:, :, None] for x in (k_GBD, v_GBD))
    k, v = (torch.cat(pair, dim=2) for pair in zip(rows.own[layer], new, strict=True))
    rows.own[layer] = (k, v)
    heads, num, size = q_HBD.shape
    # `[H, B, D]` -> `[B, G, H / G, D]`, as over the prefix.
    q = q_HBD.transpose(0, 1).reshape(num, k.shape[1], -1, size)
    # Keys of a row: its first tokens, padding up to the longest row, then the appended tokens.
    allowed_BT = torch.cat([rows.is_token, rows.is_token.new_ones(num, rows.steps)], dim=1)
    if how.window is not None:
        appended = rows.lengths[:, None] + torch.arange(rows.steps, device=q.device)
        offsets_BT = torch.cat([rows.columns(), appended], dim=1)
        allowed_BT = allowed_BT & (rows.offsets()[:, None] - offsets_BT < how.window)
    part = attend(q, k, v, how.scale, allowed=allowed_BT[:, None, None], softcap=how.softcap)
    out_BHD = part.out.reshape(num, heads, -1)
    return Part(out_BHD.transpose(0, 1), part.lse.reshape(num, heads).transpose(0, 1))


_running: ContextVar[PackedRows] = ContextVar("rows of the pass that runs")


def _shared_prefix_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,  # noqa: ARG001 - rows have masks of their own
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Compute attention for transformers, `[1, H, N, D]` in and `[1, N, H, D]` out.

    Raises:
        ValueError: The layer passes a tensor whose meaning is unknown here.
    """
    if unknown := [
        name for name, x in options.items() if isinstance(x, Tensor) and name not in KNOWN_TENSORS
    ]:
        raise ValueError(f"it takes {', '.join(unknown)}")
    how = Scoring(
        scale=query.shape[-1] ** -0.5 if scaling is None else scaling,
        window=options.get("sliding_window"),
        softcap=options.get("softcap"),
        sinks=options.get("s_aux"),
    )
    # transformers passes the module, whose index finds the keys of its prefix.
    layer: Any = module.layer_idx
    out_HND = attend_packed(_running.get(), layer, query[0], key[0], value[0], how)
    return out_HND.transpose(0, 1)[None].contiguous(), None


AttentionInterface.register(SHARED_PREFIX, _shared_prefix_attention)


@contextmanager
def packed_attention(model: SplitModel, rows: PackedRows) -> Iterator[None]:
    """Context manager in which the model's layers attend over packed rows.

    Raises:
        ValueError: The model's attention cannot be replaced.
    """
    token = _running.set(rows)
    try:
        with attention(model.loaded.module, SHARED_PREFIX):
            yield
    finally:
        _running.reset(token)
