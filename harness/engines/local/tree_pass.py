"""Run one pass of a prefix tree: some nodes in depth-first order, packed in one sequence.

For a node `a b` of positions 0 and 1 with the children `c` and `d e`, and a limit that cuts
nothing:

    packed      a b c d e        N = 5
    positions   0 1 2 2 3
    own         [[0 1]           places of nodes in the packed sequence, padded to the longest;
                 [3 4]           short nodes go together (`ShortNodes`), a long one goes alone
                 [2 2]]
    above       0 1              the keys of `a b` stand at places 0 and 1,
    below       2 3 4            and the queries below it behind them, in one slice

Ancestors that ran in an earlier pass have `Keys`, which are kept as long as a node below is still
to run. `Kept` holds them.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from harness.engines.local.split_attention import Part, attend
from harness.engines.local.split_model import SplitModel
from harness.engines.local.tree_attention import Above, Scoring, run_packed
from harness.engines.tree import Ints, PrefixTree

SHORT = 32
"""Nodes of at most so many tokens may be padded to one length [token]."""
LONG = 128
"""Nodes of more tokens go alone: their attention takes longer than a kernel's start [token]."""


@dataclass(frozen=True, slots=True, eq=False)
class Keys:
    """Keys and values of one node."""

    start: int
    """Position of the first key."""
    length: int
    """Number of its tokens."""
    layers: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """Index of a layer -> its keys and values, `[G, P, D]` each."""


class ShortNodes(NamedTuple):
    """Nodes of similar length, padded to the longest: B nodes, S tokens."""

    places: Tensor
    """Places of tokens in the packed sequence, int64 `[B, S]`; padding holds a node's first one."""
    real: Tensor
    """Indices of tokens that are no padding, in the flat `[B * S]`."""
    targets: Tensor
    """Places of the same tokens in the packed sequence."""

    def rows(self, x_HND: Tensor) -> Tensor:
        """Return the values of the nodes, `[H, N, D]` -> `[B, H, S, D]`.

        Padding holds the first token of a node: as a key it is behind every real query, and the
        result of it as a query is dropped.
        """
        return x_HND[:, self.places].transpose(0, 1)

    def put(self, rows: Tensor, into: Tensor) -> None:
        """Write results `[B, H, S, ..]` to their places in `[H, N, ..]`."""
        into[:, self.targets] = rows.transpose(0, 1).flatten(1, 2)[:, self.real]


class LongNode(NamedTuple):
    """One node, which needs no copies; B = 1."""

    places: slice
    """Places of its tokens in the packed sequence."""

    def rows(self, x_HND: Tensor) -> Tensor:
        """Return the values of the node, `[H, N, D]` -> `[1, H, S, D]`."""
        return x_HND[None, :, self.places]

    def put(self, rows: Tensor, into: Tensor) -> None:
        """Write results `[1, H, S, ..]` to their places in `[H, N, ..]`."""
        into[:, self.places] = rows[0]


class Ancestor(NamedTuple):
    """A node with tokens of the pass below it."""

    node: int
    keys: slice | None
    """Places of its keys in the pass; None if it ran earlier."""
    start: int
    """Position of its first key."""
    below: slice
    """Places of the tokens below it."""
    longest: int
    """Positions up to the last one of a token below, itself included."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TreePass:
    """The layout of a pass; a `Packed` of `tree_attention`."""

    positions: Tensor
    """Position of each token in its whole prompt, int64 `[N]`."""
    nodes: tuple[ShortNodes | LongNode, ...]
    """All nodes of the pass."""
    ancestors: tuple[Ancestor, ...]
    """Nodes with tokens of the pass below them, those nearer to the root first."""
    kept: dict[int, Keys]
    """Keys by node: those of earlier passes, and those that later passes need of this one."""
    keeps: dict[int, slice]
    """Nodes of the pass whose keys later passes need, and the places of their tokens."""

    def own(self, layer: int, q_HND: Tensor, k_GND: Tensor, v_GND: Tensor, how: Scoring) -> Part:
        """Attend from every token of a node to itself and the tokens of the node before it."""
        for node, places in self.keeps.items():
            # Copies: a slice would keep the keys of the whole pass in memory.
            self.kept[node].layers[layer] = (k_GND[:, places].clone(), v_GND[:, places].clone())
        heads, num, _ = q_HND.shape
        out = q_HND.new_empty(heads, num, v_GND.shape[-1], dtype=torch.float32)
        lse = q_HND.new_empty(heads, num, dtype=torch.float32)
        for nodes in self.nodes:
            q, k, v = map(nodes.rows, (q_HND, k_GND, v_GND))
            part = _over_own(q, k, v, how)
            nodes.put(part.out, out)
            nodes.put(part.lse, lse)
        return Part(out, lse)

    def above(self, layer: int, k_GND: Tensor, v_GND: Tensor) -> Iterator[Above]:
        """Yield the ancestors of the pass."""
        for each in self.ancestors:
            if each.keys is None:
                keys, values = self.kept[each.node].layers[layer]
            else:
                keys, values = k_GND[:, each.keys], v_GND[:, each.keys]
            yield Above(keys, values, each.start, each.below, each.longest)


def _over_own(q: Tensor, k: Tensor, v: Tensor, how: Scoring) -> Part:
    """Attend from nodes to themselves: queries `[B, H, S, D]`, keys and values `[B, G, S, D]`."""
    # In a causal matrix the heads of a group cannot be further queries: each gets its own keys.
    group = q.shape[1] // k.shape[1]
    k, v = (x.repeat_interleave(group, 1) for x in (k, v))
    allowed = None
    if how.window is not None and q.shape[-2] > how.window:
        column = torch.arange(q.shape[-2], device=q.device)
        allowed = column[:, None] - column < how.window
    return attend(q, k, v, how.scale, causal=True, allowed=allowed, softcap=how.softcap)


class Kept:
    """Keys of nodes that later tokens attend to."""

    def __init__(self) -> None:
        self.by_node: dict[int, Keys] = {}

    @property
    def num_tokens(self) -> int:
        """Tokens whose keys are kept."""
        return sum(keys.length for keys in self.by_node.values())

    def drop_all_but(self, needed: set[int]) -> None:
        """Drop the keys of all other nodes."""
        for node in self.by_node.keys() - needed:
            del self.by_node[node]


def run_pass(
    model: SplitModel, tree: PrefixTree, nodes: range, kept: Kept, keep: set[int]
) -> tuple[Tensor, Ints]:
    """Run some nodes; return their hidden states, and the places where nodes begin.

    Returns:
        Hidden states `[N, H]`; the place of each node's first token, and N behind the last one.

    Args:
        model: The model.
        tree: The tree.
        nodes: Consecutive nodes.
        kept: Keys of ancestors that ran before.
        keep: Nodes of the pass whose keys are put into `kept`.
    """
    device = model.loaded.device
    lengths = (tree.ends - tree.starts)[nodes.start : nodes.stop]
    offsets = np.concatenate([[0], lengths.cumsum()])
    places = {node: slice(*offsets[i : i + 2].tolist()) for i, node in enumerate(nodes)}
    for node in keep:
        start, end = int(tree.starts[node]), int(tree.ends[node])
        kept.by_node[node] = Keys(start, end - start)
    positions = [np.arange(tree.starts[node], tree.ends[node]) for node in nodes]
    packed = TreePass(
        positions=torch.from_numpy(np.concatenate(positions)).to(device),
        nodes=tuple(_own_nodes(lengths, offsets[:-1], device)),
        ancestors=tuple(_ancestors(tree, nodes, offsets)),
        kept=kept.by_node,
        keeps={node: places[node] for node in keep},
    )
    ids = np.concatenate([tree.ids(node) for node in nodes]).astype(np.int64)
    return run_packed(model, packed, torch.from_numpy(ids)), offsets


def _own_nodes(
    lengths: Ints, offsets: Ints, device: torch.device
) -> Iterator[ShortNodes | LongNode]:
    """Yield long nodes alone and short nodes of similar length together, the longest first.

    Args:
        lengths: Tokens of each node.
        offsets: Place of the first token of each node.
        device: Device of the indices.
    """
    order = np.argsort(-lengths, kind="stable")
    num_long = int((lengths > LONG).sum())
    for node in order[:num_long]:
        yield LongNode(slice(int(offsets[node]), int(offsets[node] + lengths[node])))
    order = order[num_long:]
    while len(order):
        longest = lengths[order[0]]
        # Padding to twice the length at most: attention to a row of S tokens costs S^2.
        together = order[2 * lengths[order] > longest] if longest > SHORT else order
        order = order[len(together) :]
        columns = np.arange(longest)
        is_token = columns < lengths[together][:, None]
        places = offsets[together][:, None] + np.where(is_token, columns, 0)
        arrays = (places, np.flatnonzero(is_token), places[is_token])
        yield ShortNodes(*(torch.from_numpy(each).to(device) for each in arrays))


def _ancestors(tree: PrefixTree, nodes: range, offsets: Ints) -> Iterator[Ancestor]:
    """Yield every node with tokens of the pass below it."""
    # In depth-first order, ancestors that ran earlier are those of the first node.
    earlier = tree.chain(nodes.start)[:-1]
    for node in (*earlier, *nodes):
        stop = min(int(tree.stops[node]), nodes.stop)
        first = max(node + 1, nodes.start)
        if first >= stop:
            continue
        below = slice(int(offsets[first - nodes.start]), int(offsets[stop - nodes.start]))
        place = node - nodes.start
        keys = slice(int(offsets[place]), int(offsets[place + 1])) if place >= 0 else None
        longest = int(tree.ends[first:stop].max())
        yield Ancestor(node, keys, int(tree.starts[node]), below, longest)
