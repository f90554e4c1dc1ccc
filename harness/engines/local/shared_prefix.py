"""Run a shared prefix once, then many rows after it.

1. `run_prefix` runs the prefix and keeps its keys and values.
2. `run_rows` runs all rows of a batch in one packed sequence (`packed_rows`). Their attention
   reads the keys of the prefix where they are, without a copy (`prefix_attention`).
3. `append` runs one more token of each row, for decoding.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from harness.engines.local.packed_rows import PackedRows, Prefix
from harness.engines.local.prefix_attention import packed_attention
from harness.engines.local.split_model import SplitModel


def run_prefix(model: SplitModel, ids: Sequence[int]) -> Prefix:
    """Run the shared prefix of some prompts, at least one token.

    Raises:
        ValueError: A layer caches something else than keys and values.
    """
    # Without a config every layer keeps all keys, even a layer with a sliding window.
    cache = DynamicCache()
    model.hidden(torch.tensor([ids]), past_key_values=cache, use_cache=True)
    return Prefix(len(ids), tuple(_keys_and_values(layer) for layer in cache.layers))


def _keys_and_values(layer: object) -> tuple[Tensor, Tensor]:
    if not isinstance(layer, DynamicLayer) or layer.keys is None or layer.values is None:
        raise ValueError(f"every layer must cache keys and values, got {type(layer).__name__}")
    return layer.keys, layer.values


def run_rows(
    model: SplitModel, packed: PackedRows, rows: Sequence[Sequence[int]], *, keep: bool
) -> Tensor:
    """Run the rows after their prefix; return the hidden state of each row's last token, `[B, H]`.

    Args:
        model: The model.
        packed: Layout of the rows, made for their lengths.
        rows: Token ids of each row.
        keep: Keep keys and values, which `append` needs.
    """
    packed.keep = keep
    ids_1N = torch.tensor([[token for row in rows for token in row]])
    hidden_NH = _run(model, packed, ids_1N)
    # Rows of 3 and 2 tokens end at places 2 and 4.
    return hidden_NH[packed.lengths.cumsum(0) - 1]


def append(model: SplitModel, packed: PackedRows, tokens_B: Tensor) -> Tensor:
    """Append one token to each row; return its hidden state, `[B, H]`."""
    # Before the run: `offsets` counts the new token.
    packed.steps += 1
    return _run(model, packed, tokens_B[None])


def _run(model: SplitModel, packed: PackedRows, ids_1N: Tensor) -> Tensor:
    """Return hidden states `[N, H]` of packed tokens."""
    positions_1N = packed.prefix.length + packed.offsets()[None]
    with packed_attention(model, packed):
        return model.hidden(ids_1N, position_ids=positions_1N)[0]
