"""Many rows after one shared prefix: the prefix is run once, and its keys and values are never copied.

The rows of a batch are packed: their tokens follow one another in one sequence `[1, N]`, without padding, each with the
position it has in its whole prompt. Everything in a transformer but attention treats tokens one by one, so only attention
must know. It has two parts, joined by `attention.join`:

- over the prefix: all N queries against the same P keys, in one product; with grouped queries the heads of a group are
  further queries to the same keys, so nothing is repeated for them either;
- over the row itself: causal, `[B, S]` with padding, which is short.

(The decomposition is Hydragen's: Juravsky et al., 2024.) transformers asks a registered function for attention; while a
batch runs, ours takes the model's place. Layers with a sliding window see what lies in it.

Shapes: B rows, S tokens of the longest, N tokens of all, P of the prefix, T of a row with what was appended; H heads, G
heads of keys, D their size.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, DynamicCache
from transformers.cache_utils import DynamicLayer

from harness.engines.local.split_attention import Part, attend, join
from harness.engines.local.split_model import SplitModel
from harness.models.architecture import attention

NAME = "harness_shared_prefix"
KNOWN = ("position_ids", "cache_position", "s_aux")
"""Tensors that layers hand to attention and that are no news here, or are taken into account."""


class Prefix(NamedTuple):
    """Keys and values of a shared beginning."""

    length: int
    layers: tuple[tuple[Tensor, Tensor], ...]
    """Keys and values `[1, G, P, D]` of each layer."""


class Scoring(NamedTuple):
    """How a layer scores keys."""

    scale: float
    window: int | None
    """A query sees the last so many positions, its own included."""
    softcap: float | None
    sinks: Tensor | None
    """Score of a key without a value, for each head `[H]`: it takes its share of the softmax."""


def run_prefix(halves: SplitModel, ids: Sequence[int]) -> Prefix:
    """Run the shared beginning of some prompts, at least one token."""
    # Without the config every layer keeps all keys, those with a sliding window too.
    cache = DynamicCache()
    halves.hidden(torch.tensor([ids]), past_key_values=cache, use_cache=True)
    return Prefix(len(ids), tuple(_kept(layer) for layer in cache.layers))


def _kept(layer: object) -> tuple[Tensor, Tensor]:
    if not isinstance(layer, DynamicLayer) or layer.keys is None or layer.values is None:
        raise ValueError(f"every layer must cache keys and values, got {type(layer).__name__}")
    return layer.keys, layer.values


@dataclass(kw_only=True, slots=True, eq=False)
class PackedRows:
    """The rows of a batch, and their keys and values if tokens are to be appended."""

    prefix: Prefix
    lengths: Tensor
    """Tokens of each row, `[B]`."""
    is_token: Tensor
    """Which places of `[B, S]` are no padding."""
    places: Tensor
    """Where in the packed sequence each token of a row is, `[B, S]`; padding points to the first."""
    keep: bool = False
    own: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """By layer, if they are kept: keys and values of the rows, `[B, G, T, D]`."""
    steps: int = 0
    """Tokens that were appended to each row."""

    @classmethod
    def make(cls, prefix: Prefix, lengths: Sequence[int]) -> "PackedRows":
        """Lay out rows of some lengths."""
        lengths_B = torch.tensor(lengths, device=prefix.layers[0][0].device)
        columns_S = torch.arange(max(lengths), device=lengths_B.device)
        is_token_BS = columns_S < lengths_B[:, None]
        starts_B1 = (lengths_B.cumsum(0) - lengths_B)[:, None]
        places_BS = (starts_B1 + columns_S).where(is_token_BS, torch.zeros_like(columns_S))
        return cls(prefix=prefix, lengths=lengths_B, is_token=is_token_BS, places=places_BS)

    def prefill(self, halves: SplitModel, rows: Sequence[Sequence[int]], *, keep: bool) -> Tensor:
        """Run the rows; return the hidden state of each one's last token, `[B, H]`. `keep` allows for `step`."""
        self.keep = keep
        ids_1N = torch.tensor([[token for row in rows for token in row]])
        hidden_NH = self._run(halves, ids_1N)
        return hidden_NH[self.lengths.cumsum(0) - 1]

    def step(self, halves: SplitModel, tokens_B: Tensor) -> Tensor:
        """Append one token to each row; return its hidden state, `[B, H]`."""
        self.steps += 1
        return self._run(halves, tokens_B[None])

    def _run(self, halves: SplitModel, ids_1N: Tensor) -> Tensor:
        positions_1N = self.prefix.length + self._offsets()[None]
        with _replaced_attention(halves, self):
            return halves.hidden(ids_1N, position_ids=positions_1N)[0]

    def _offsets(self) -> Tensor:
        """Return the place in its row of every token that runs now, `[N]`."""
        if self.steps:
            return self.lengths + self.steps - 1
        return self._columns()[self.is_token]

    def _columns(self) -> Tensor:
        width = self.is_token.shape[1]
        return torch.arange(width, device=self.is_token.device).expand_as(self.is_token)

    def attention(self, layer: int, q: Tensor, k: Tensor, v: Tensor, how: Scoring) -> Tensor:
        """Return attention `[H, N, D]` of packed queries `[H, N, D]`, whose own keys and values are `[G, N, D]`."""
        over_row = (self._over_step if self.steps else self._over_row)(layer, q, k, v, how)
        over_prefix = self._over_prefix(layer, q, how)
        out = join(over_prefix, over_row)
        if how.sinks is not None:
            sums = torch.logaddexp(over_prefix.lse, over_row.lse)
            out = out * torch.sigmoid(sums - how.sinks.float()[:, None])[..., None]
        return out.to(q.dtype)

    def _over_prefix(self, layer: int, q_HND: Tensor, how: Scoring) -> Part:
        keys, values = self.prefix.layers[layer]
        heads, num, size = q_HND.shape
        # The heads of a group are further queries to the same keys.
        q = q_HND.reshape(1, keys.shape[1], -1, size)
        allowed = None
        longest = self.prefix.length + self.is_token.shape[1] + self.steps
        if how.window is not None and longest > how.window:
            behind_N1 = (self.prefix.length + self._offsets())[:, None]
            seen_NP = behind_N1 - torch.arange(self.prefix.length, device=q.device) < how.window
            allowed = seen_NP.repeat(heads // keys.shape[1], 1)
        part = attend(q, keys, values, how.scale, allowed=allowed, softcap=how.softcap)
        return Part(part.out.reshape(heads, num, -1), part.lse.reshape(heads, num))

    def _over_row(
        self, layer: int, q_HND: Tensor, k_GND: Tensor, v_GND: Tensor, how: Scoring
    ) -> Part:
        """Attend from every token of a row to those before it and itself."""
        q, k, v = (x[:, self.places].transpose(0, 1) for x in (q_HND, k_GND, v_GND))
        if self.keep:
            self.own[layer] = (k, v)
        group = q.shape[1] // k.shape[1]
        k, v = (x.repeat_interleave(group, 1) for x in (k, v))
        allowed = None
        if how.window is not None and q.shape[-2] > how.window:
            column = torch.arange(q.shape[-2], device=q.device)
            allowed = column[:, None] - column < how.window
        part = attend(q, k, v, how.scale, causal=True, allowed=allowed, softcap=how.softcap)
        return Part(*(x.transpose(0, 1)[:, self.is_token] for x in part))

    def _over_step(
        self, layer: int, q_HBD: Tensor, k_GBD: Tensor, v_GBD: Tensor, how: Scoring
    ) -> Part:
        """Attend from one new token of every row to the row, and keep the new keys and values."""
        new = (x.transpose(0, 1)[:, :, None] for x in (k_GBD, v_GBD))
        k, v = (torch.cat(pair, dim=2) for pair in zip(self.own[layer], new, strict=True))
        self.own[layer] = (k, v)
        heads, num, size = q_HBD.shape
        q = q_HBD.transpose(0, 1).reshape(num, k.shape[1], -1, size)
        allowed_BT = torch.cat([self.is_token, self.is_token.new_ones(num, self.steps)], dim=1)
        if how.window is not None:
            appended = self.lengths[:, None] + torch.arange(self.steps, device=q.device)
            offsets_BT = torch.cat([self._columns(), appended], dim=1)
            allowed_BT = allowed_BT & (self._offsets()[:, None] - offsets_BT < how.window)
        part = attend(q, k, v, how.scale, allowed=allowed_BT[:, None, None], softcap=how.softcap)
        out_BHD = part.out.reshape(num, heads, -1)
        return Part(out_BHD.transpose(0, 1), part.lse.reshape(num, heads).transpose(0, 1))


_running: ContextVar[PackedRows] = ContextVar("rows of the batch that runs")


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,  # noqa: ARG001 - the rows are masked by `_offsets` and `places`
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Compute attention for transformers: `[1, H, N, D]` in, `[1, N, H, D]` out."""
    if unknown := [
        name for name, x in options.items() if isinstance(x, Tensor) and name not in KNOWN
    ]:
        raise ValueError(f"it takes {', '.join(unknown)}")
    how = Scoring(
        scale=query.shape[-1] ** -0.5 if scaling is None else scaling,
        window=options.get("sliding_window"),
        softcap=options.get("softcap"),
        sinks=options.get("s_aux"),
    )
    layer: Any = module.layer_idx
    out_HND = _running.get().attention(layer, query[0], key[0], value[0], how)
    return out_HND.transpose(0, 1)[None].contiguous(), None


AttentionInterface.register(NAME, _attention)


@contextmanager
def _replaced_attention(halves: SplitModel, rows: PackedRows) -> Iterator[None]:
    """Let the model's layers ask `_attention`, which asks these rows."""
    token = _running.set(rows)
    try:
        with attention(halves.loaded.module, NAME):
            yield
    finally:
        _running.reset(token)
