"""Rows that decode together, each behind a path of a prefix tree.

A row has the keys of its own node, padded to those of the longest row, and grows by one token a
step. The nodes above are shared: rows stand in depth-first order, so that the rows below a node are
one slice, and its keys are multiplied once for all of them (`tree_attention`).

    own keys of a row    its node's tokens, padding up to the longest node, the appended tokens

Shapes: B rows, S tokens of the longest node, T = S + appended tokens; G key heads, D the size of a
head.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from harness.engines.local.split_attention import Part, attend
from harness.engines.local.split_model import SplitModel
from harness.engines.local.tree_attention import Above, Scoring, run_packed
from harness.engines.local.tree_pass import Keys


class TreePath(NamedTuple):
    """Keys of the nodes from the root to the end of a prompt."""

    nodes: tuple[Keys, ...]
    """The same object in all paths that share the node."""

    @property
    def end(self) -> int:
        """Tokens of the prompt."""
        return self.nodes[-1].start + self.nodes[-1].length


class TreeRows:
    """`GrowingRows` behind paths of a tree; a `Packed` of `tree_attention`."""

    def __init__(self, model: SplitModel, paths: Sequence[TreePath]) -> None:
        """Prepare rows.

        Args:
            model: The model.
            paths: Their paths, in depth-first order.
        """
        self._model = model
        device = model.loaded.device
        self._paths = list(paths)
        own = [path.nodes[-1] for path in paths]
        self._lengths = torch.tensor([keys.length for keys in own], device=device)
        self._ends = torch.tensor([path.end for path in paths], device=device)
        columns = torch.arange(max(keys.length for keys in own), device=device)
        self._is_token = columns < self._lengths[:, None]
        self._own = {layer: _padded(own, layer) for layer in own[0].layers}
        self._steps = 0
        self._nodes = list(_shared(self._paths))

    @property
    def positions(self) -> Tensor:
        """Position of the new token of each row, `[B]`."""
        return self._ends + self._steps - 1

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all other rows."""
        index = torch.tensor(rows, device=self._lengths.device)
        self._paths = [self._paths[row] for row in rows]
        self._lengths, self._ends = self._lengths[index], self._ends[index]
        self._is_token = self._is_token[index]
        self._own = {layer: (k[index], v[index]) for layer, (k, v) in self._own.items()}
        self._nodes = list(_shared(self._paths))

    def append(self, tokens_B: Tensor) -> Tensor:
        """Append a token to each row; return the float32 logits `[B, V]` after it."""
        # Before the forward pass: `positions` counts the new token.
        self._steps += 1
        return self._model.logits(run_packed(self._model, self, tokens_B))

    def own(self, layer: int, q_HBD: Tensor, k_GBD: Tensor, v_GBD: Tensor, how: Scoring) -> Part:
        """Attend from the new token of every row to its own keys; keep the new keys."""
        new = (x.transpose(0, 1)[:, :, None] for x in (k_GBD, v_GBD))
        k, v = (torch.cat(pair, dim=2) for pair in zip(self._own[layer], new, strict=True))
        self._own[layer] = (k, v)
        heads, num, size = q_HBD.shape
        # `[H, B, D]` -> `[B, G, H / G, D]`: the heads of a group are queries of the same keys.
        q = q_HBD.transpose(0, 1).reshape(num, k.shape[1], -1, size)
        allowed_BT = torch.cat([self._is_token, self._is_token.new_ones(num, self._steps)], dim=1)
        if how.window is not None:
            # Index in its row of every key, and of the new token.
            width, last = self._is_token.shape[1], self._lengths[:, None] + self._steps - 1
            columns = torch.arange(width, device=q.device).expand(num, -1)
            appended = self._lengths[:, None] + torch.arange(self._steps, device=q.device)
            behind = last - torch.cat([columns, appended], dim=1)
            allowed_BT = allowed_BT & (behind < how.window)
        part = attend(q, k, v, how.scale, allowed=allowed_BT[:, None, None], softcap=how.softcap)
        out_HBD = part.out.reshape(num, heads, -1).transpose(0, 1)
        return Part(out_HBD, part.lse.reshape(num, heads).transpose(0, 1))

    def above(self, layer: int, k_GBD: Tensor, v_GBD: Tensor) -> Iterator[Above]:  # noqa: ARG002
        """Yield the nodes above the rows."""
        for node, below, end in self._nodes:
            keys, values = node.layers[layer]
            yield Above(keys, values, node.start, below, end + self._steps)


def _padded(nodes: Sequence[Keys], layer: int) -> tuple[Tensor, Tensor]:
    """Return keys and values `[B, G, S, D]` of nodes `[G, P, D]`."""
    both = zip(*(node.layers[layer] for node in nodes), strict=True)
    # `pad_sequence` pads the first axis.
    keys, values = (
        pad_sequence([x.transpose(0, 1) for x in each], batch_first=True).transpose(1, 2)
        for each in both
    )
    return keys, values


def _shared(paths: Sequence[TreePath]) -> Iterator[tuple[Keys, slice, int]]:
    """Yield every node above a row, the rows below it, and the tokens of their longest prompt."""
    rows: dict[Keys, list[int]] = {}
    for row, path in enumerate(paths):
        for node in path.nodes[:-1]:
            rows.setdefault(node, []).append(row)
    for node, below in rows.items():
        yield node, slice(below[0], below[-1] + 1), max(paths[row].end for row in below)
