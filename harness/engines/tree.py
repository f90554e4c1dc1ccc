"""A prefix tree of requests: tokens that requests share stand in it once.

The *sequence* of a request holds the tokens that a model must run: context and continuation without
its last token, which is only looked up. Requests of equal sequences, such as the four letters of an
MMLU question, are one leaf. A node holds tokens [start, end) of all sequences below it. For the
sequences `a b c`, `a b d e`, and `a b d e f`:

    node 0  a b        tokens [0, 2)    parent none
    node 1    c        tokens [2, 3)    parent 0
    node 2    d e      tokens [2, 4)    parent 0, one sequence ends here, another goes on
    node 3      f      tokens [4, 5)    parent 2

Nodes stand in depth-first order (preorder), so a subtree is one slice of nodes. `passes` cuts this
order into passes. Of all nodes that ran before a pass, it needs only the ancestors of its first
node. So the keys in memory are those of one path of the tree: at most as many tokens as the longest
sequence has.

What is shared. In lexicographic order, two neighbours are linked if they share at least 1 /
`LEAST_SHARE` of the longer one. Linked sequences form one tree, where every shared token runs once.
A sequence that is linked to none, and has nothing to generate, runs whole: two windows of 2048
tokens that both begin with a BOS gain nothing from a tree. Between two neighbours that are not
linked, less than 1 / `LEAST_SHARE` of the longer one runs again. A sequence is the longer one of at
most two such pairs, so less than 2 / `LEAST_SHARE` of all tokens that run have run before.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np

from harness.engines.requests import Generate, Request

Ints: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]
Ids: TypeAlias = np.ndarray[Any, np.dtype[np.uint32]]
LEAST_SHARE = 16
"""Two sequences are linked if they share at least 1 / `LEAST_SHARE` of the longer one."""
ID_TYPE = ">u4"
"""Token ids as bytes, the most significant one first: bytes then compare as their ids do."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PrefixTree:
    """Sequences of requests, and the nodes of those that share tokens; see the module docstring."""

    sequences: tuple[Ids, ...]
    """Distinct sequences, in lexicographic order."""
    sequence_of: Ints
    """Index of each request's sequence, `[requests]`."""
    whole: Ints
    """Indices of the sequences outside the tree, in the order of their first requests."""
    holders: Ints
    """Index of a sequence that holds each node's tokens, `[nodes]`."""
    starts: Ints
    """Position of each node's first token in its sequences, `[nodes]`."""
    ends: Ints
    """Position behind each node's last token, `[nodes]`."""
    parents: Ints
    """Parent of each node, `[nodes]`; -1 for a node without one."""
    stops: Ints
    """First node behind each node's subtree, `[nodes]`."""
    last: Ints
    """Node that each sequence ends in, `[sequences]`; -1 outside the tree."""

    def __len__(self) -> int:
        """Return the number of nodes."""
        return len(self.starts)

    def ids(self, node: int) -> Ids:
        """Return the tokens of a node."""
        sequence: Ids = self.sequences[self.holders[node]]
        return sequence[self.starts[node] : self.ends[node]]

    def chain(self, node: int) -> list[int]:
        """Return the ancestors of a node, the root first, and the node itself."""
        found = []
        while node >= 0:
            found.append(node)
            node = int(self.parents[node])
        return found[::-1]

    def passes(self, batch_tokens: int) -> Iterator[range]:
        """Yield all nodes in passes of at most `batch_tokens` tokens, and at least one node."""
        first = tokens = 0
        for node, length in enumerate((self.ends - self.starts).tolist()):
            if node > first and tokens + length > batch_tokens:
                yield range(first, node)
                first, tokens = node, 0
            tokens += length
        if len(self):
            yield range(first, len(self))


def num_tokens(tree: PrefixTree) -> int:
    """Return the number of tokens that run: each node once, and the whole sequences."""
    return int((tree.ends - tree.starts).sum()) + sum(len(tree.sequences[i]) for i in tree.whole)


def prefix_tree(requests: Sequence[Request], *, share: bool = True) -> PrefixTree:
    """Return the tree of some requests; without `share` every sequence is outside of it.

    Raises:
        ValueError: A request has no context, or a `Score` no continuation.
    """
    # A dict keeps one copy of equal sequences. Bytes take 4 bytes a token and sort fast.
    seen: dict[bytes, int] = {}
    found = [seen.setdefault(_sequence(request), len(seen)) for request in requests]
    keys = sorted(seen)
    rank = np.empty(len(keys), np.int64)
    rank[[seen[key] for key in keys]] = np.arange(len(keys))
    sequence_of = rank[np.asarray(found, np.int64)]
    sequences = tuple(np.frombuffer(key, ID_TYPE) for key in keys)
    generates = np.zeros(len(sequences), bool)
    generating = [i for i, each in enumerate(requests) if isinstance(each, Generate)]
    generates[sequence_of[generating]] = True
    nodes = _Nodes(sequences)
    if share:
        nodes.grow(_linked(sequences), generates)
    alone = np.flatnonzero(nodes.last < 0)
    # `seen` counts sequences in the order of their first requests.
    whole = alone[np.argsort([seen[keys[i]] for i in alone])] if len(alone) else alone
    holders, starts, ends, parents = np.array(nodes.made, np.int64).reshape(-1, 4).T
    return PrefixTree(
        sequences=sequences,
        sequence_of=sequence_of,
        whole=whole,
        holders=holders,
        starts=starts,
        ends=ends,
        parents=parents,
        stops=_stops(parents),
        last=nodes.last,
    )


def _sequence(request: Request) -> bytes:
    """Return the tokens that a model must run for a request, as `ID_TYPE`."""
    is_asked = isinstance(request, Generate) or bool(request.continuation)
    if not request.context or not is_asked:
        raise ValueError(f"a request must have a context and something to answer, got {request}")
    ids = np.array(request.context, ID_TYPE).tobytes()
    if isinstance(request, Generate):
        return ids
    return ids + np.array(request.continuation[:-1], ID_TYPE).tobytes()


def _linked(sequences: Sequence[Ids]) -> Ints:
    """Return how many tokens each sequence shares with the one before it, 0 if they are not linked.

    Of sorted sequences, any two share the least of what neighbours between them share.
    """
    shared = np.zeros(len(sequences), np.int64)
    for index, (a, b) in enumerate(pairwise(sequences), start=1):
        size = min(len(a), len(b))
        differs = a[:size] != b[:size]
        common = int(differs.argmax()) if differs.any() else size
        if common * LEAST_SHARE >= max(len(a), len(b)):
            shared[index] = common
    return shared


class _Nodes:
    """The nodes of a tree while it is built, in depth-first order."""

    def __init__(self, sequences: Sequence[Ids]) -> None:
        self.lengths = [len(each) for each in sequences]
        self.last = np.full(len(sequences), -1, np.int64)
        self.made: list[tuple[int, int, int, int]] = []
        """Holder, start, end and parent of each node."""

    def grow(self, shared: Ints, generates: np.ndarray[Any, np.dtype[np.bool_]]) -> None:
        """Add the nodes of all sequences that are linked or generate."""
        # An entry is a range [lo, hi) of sequences that begin alike, the number of their common
        # tokens that have a node already, and this node.
        roots = np.flatnonzero(shared == 0).tolist()
        ranges = [(lo, hi, 0, -1) for lo, hi in zip(roots, [*roots[1:], len(shared)], strict=True)]
        # Reversed, because the stack gives the last entry first.
        stack = [each for each in ranges[::-1] if each[1] - each[0] > 1 or generates[each[0]]]
        while stack:
            lo, hi, start, parent = stack.pop()
            between = shared[lo + 1 : hi]
            end = int(between.min()) if len(between) else self.lengths[lo]
            node = len(self.made)
            self.made.append((lo, start, end, parent))
            # Children begin where a sequence shares no more than this node with the one before it.
            cuts = [lo, *(lo + 1 + np.flatnonzero(between == end)).tolist(), hi]
            if self.lengths[lo] == end:
                # The shortest sequence comes first, and ends in this node.
                self.last[lo] = node
                del cuts[0]
            stack += [(a, b, end, node) for a, b in pairwise(cuts)][::-1]


def _stops(parents: Ints) -> Ints:
    """Return the first node behind each node's subtree, `[nodes]`."""
    stops = np.arange(1, len(parents) + 1)
    for node in range(len(parents) - 1, -1, -1):
        if parents[node] >= 0:
            stops[parents[node]] = max(stops[parents[node]], stops[node])
    return stops
