"""Attention of packed tokens of a prefix tree.

Everything else in a transformer treats tokens one by one, so only attention must know how the
tokens of a pass hang together. It is computed in parts, joined by `split_attention.join`:

1. Over the token's own node. Causal, for several nodes at once (`tree_pass`); or, when decoding,
   from one new token to all tokens of its row (`decode_rows`).
2. Over each ancestor. All queries below an ancestor are one slice of the packed queries, and
   multiply its keys in one matmul: no key is copied. With grouped queries the heads of a group are
   further queries of the same keys, so nothing is repeated for them.

With one ancestor this is Hydragen (Juravsky et al., "Hydragen: High-Throughput LLM Inference with
Shared Prefixes", 2024). transformers calls a registered function for attention; `tree_attention`
puts ours in the place of the model's own for one pass. Layers with a sliding window see what lies
in it.

Shapes: N packed tokens, H query heads, G key heads, D the size of a head, P tokens of an ancestor.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from harness.engines.local.split_attention import Part, attend, join
from harness.engines.local.split_model import SplitModel
from harness.models.architecture import attention

PREFIX_TREE = "harness_prefix_tree"
"""Name of this attention in transformers."""
KNOWN_TENSORS = ("position_ids", "cache_position", "s_aux")
"""Tensors that layers pass to attention and that need no more here: positions are applied to
queries and keys already, and `s_aux` holds the sinks. Any other tensor is an error."""


class Scoring(NamedTuple):
    """How a layer scores keys."""

    scale: float
    window: int | None
    """A query sees so many positions: its own and those just before it; None is all of them."""
    softcap: float | None
    sinks: Tensor | None
    """Score of a key without a value, for each head `[H]`: it takes a share of the softmax."""


class Above(NamedTuple):
    """Keys of one node, and the packed tokens below it."""

    keys: Tensor
    """`[G, P, D]`."""
    values: Tensor
    """`[G, P, D]`."""
    start: int
    """Position of the first key."""
    below: slice
    """Places of the packed tokens below the node."""
    longest: int
    """Positions up to the last one of a token below, itself included."""


class Packed(Protocol):
    """Packed tokens of one forward pass, and what they attend to."""

    @property
    def positions(self) -> Tensor:
        """Position of each token in its whole prompt, int64 `[N]`."""

    def own(self, layer: int, q_HND: Tensor, k_GND: Tensor, v_GND: Tensor, how: Scoring) -> Part:
        """Attend from every token to its own node: output `[H, N, D]`, lse `[H, N]`."""

    def above(self, layer: int, k_GND: Tensor, v_GND: Tensor) -> Iterator[Above]:
        """Yield every node with tokens of the pass below it."""


def attend_packed(
    packed: Packed, layer: int, q: Tensor, k: Tensor, v: Tensor, how: Scoring
) -> Tensor:
    """Return attention `[H, N, D]` of one layer.

    Args:
        packed: The tokens that run.
        layer: Index of the layer.
        q: Packed queries `[H, N, D]`.
        k: Packed keys `[G, N, D]` of these tokens, without their ancestors.
        v: Packed values `[G, N, D]`, likewise.
        how: Scale, window, cap and sinks of the layer.
    """
    # Each part of attention takes float32: queries belong to several parts and are converted once.
    dtype, q = q.dtype, q.float()
    out, lse = packed.own(layer, q, k, v, how)
    for node in packed.above(layer, k, v):
        over = _over_node(node, q[:, node.below], packed.positions[node.below], how)
        joined = join(over, Part(out[:, node.below], lse[:, node.below]))
        out[:, node.below], lse[:, node.below] = joined
    if how.sinks is not None:
        # A sink of score s adds e^s to the sum Z of exponentials and nothing to the values:
        # out Z / (Z + e^s) = out sigmoid(ln Z - s).
        out = out * torch.sigmoid(lse - how.sinks.float()[:, None])[..., None]
    return out.to(dtype)


def _over_node(node: Above, q_HND: Tensor, positions_N: Tensor, how: Scoring) -> Part:
    """Attend from the tokens below a node to the node.

    Args:
        node: The node, with its keys.
        q_HND: Queries of the tokens below it.
        positions_N: Positions of these tokens.
        how: Scale, window and cap of the layer.
    """
    heads, num, size = q_HND.shape
    groups, length, _ = node.keys.shape
    # `[H, N, D]` -> `[1, G, H / G * N, D]`: the heads of a group are queries of the same keys.
    q = q_HND.reshape(1, groups, -1, size)
    allowed = None
    # A mask rules out the fast kernel, so there is one only where a window is short enough to bite.
    if how.window is not None and node.longest - node.start > how.window:
        keys = torch.arange(node.start, node.start + length, device=q.device)
        allowed = (positions_N[:, None] - keys < how.window).repeat(heads // groups, 1)
    part = attend(
        q, node.keys[None], node.values[None], how.scale, allowed=allowed, softcap=how.softcap
    )
    return Part(part.out.reshape(heads, num, -1), part.lse.reshape(heads, num))


_running: ContextVar[Packed] = ContextVar("tokens of the pass that runs")


def _prefix_tree_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,  # noqa: ARG001 - nodes have masks of their own
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
    # transformers passes the module, whose index finds the keys of the ancestors.
    layer: Any = module.layer_idx
    out_HND = attend_packed(_running.get(), layer, query[0], key[0], value[0], how)
    return out_HND.transpose(0, 1)[None].contiguous(), None


AttentionInterface.register(PREFIX_TREE, _prefix_tree_attention)


@contextmanager
def _tree_attention(model: SplitModel, packed: Packed) -> Iterator[None]:
    """Context manager that puts `_prefix_tree_attention` in the place of a model's attention."""
    token = _running.set(packed)
    try:
        with attention(model.loaded.module, PREFIX_TREE):
            yield
    finally:
        _running.reset(token)


def run_packed(model: SplitModel, packed: Packed, ids_N: Tensor) -> Tensor:
    """Run packed tokens; return their hidden states `[N, H]`.

    Raises:
        ValueError: The model's attention cannot be replaced.
    """
    with _tree_attention(model, packed):
        return model.hidden(ids_N[None], position_ids=packed.positions[None])[0]
