"""A prefix tree of requests: tokens that requests share stand in it once.

The *run* of a request holds the tokens that a model must run: context and continuation without its
last token, which is only looked up. Requests of equal runs, such as the four letters of an MMLU
question, are one leaf. A node holds tokens [start, end) of all runs below it. For the runs `a b c`,
`a b d e`, and `a b d e f`:

    node 0  a b        tokens [0, 2)    parent none
    node 1    c        tokens [2, 3)    parent 0
    node 2    d e      tokens [2, 4)    parent 0, a run ends here and another one goes on
    node 3      f      tokens [4, 5)    parent 2

Nodes stand in depth-first order (preorder), so that a subtree is one slice of nodes. `passes` cuts
that order into passes. When a pass begins, only the ancestors of its first node are still needed of
all that ran before: the keys in memory are those of one path of the tree, at most as many tokens as
the longest run has.

What is shared. In lexicographic order, two neighbours are linked if they share at least 1 /
`LEAST_SHARE` of the longer one. Linked runs form one tree, where every shared token runs once. A
run that is linked to none, and has nothing to generate, runs whole: two windows of 2048 tokens that
both begin with a BOS gain nothing from a tree. A cut costs less than 1 / `LEAST_SHARE` of a run, so
the tokens that run twice are always fewer than that share of all tokens.
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
"""Two runs are linked if they share at least one of so many tokens of the longer one."""
WIDE = ">u4"
"""Tokens in bytes, most significant byte first: bytes then compare as their tokens do."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PrefixTree:
    """Runs of requests, and the nodes of those that share tokens; see the module docstring."""

    runs: tuple[Ids, ...]
    """Distinct runs, in lexicographic order."""
    run_of: Ints
    """Index of each request's run, `[requests]`."""
    whole: Ints
    """Indices of the runs outside the tree, in the order of their first requests."""
    paths: Ints
    """Index of a run that holds each node's tokens, `[nodes]`."""
    starts: Ints
    ends: Ints
    parents: Ints
    """-1 for a node without a parent."""
    stops: Ints
    """First node behind each node's subtree."""
    last: Ints
    """Node that each run ends in, `[runs]`; -1 outside the tree."""

    def __len__(self) -> int:
        """Return the number of nodes."""
        return len(self.starts)

    def ids(self, node: int) -> Ids:
        """Return the tokens of a node."""
        run: Ids = self.runs[self.paths[node]]
        return run[self.starts[node] : self.ends[node]]

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
    """Return the number of tokens that run."""
    return int((tree.ends - tree.starts).sum()) + sum(len(tree.runs[i]) for i in tree.whole)


def prefix_tree(requests: Sequence[Request], *, share: bool = True) -> PrefixTree:
    """Build the tree of some requests; without `share` every run is whole.

    Raises:
        ValueError: A request has no context, or a `Score` no continuation.
    """
    # A dict keeps one copy of equal runs. Bytes take 4 bytes a token and sort fast.
    seen: dict[bytes, int] = {}
    found = [seen.setdefault(_run(request), len(seen)) for request in requests]
    keys = sorted(seen)
    rank = np.empty(len(keys), np.int64)
    rank[[seen[key] for key in keys]] = np.arange(len(keys))
    run_of = rank[np.asarray(found, np.int64)]
    runs = tuple(np.frombuffer(key, WIDE) for key in keys)
    generates = np.zeros(len(runs), bool)
    generates[[run_of[i] for i, each in enumerate(requests) if isinstance(each, Generate)]] = True
    nodes = _Nodes(runs)
    if share:
        nodes.grow(_linked(runs), generates)
    alone = np.flatnonzero(nodes.last < 0)
    # `seen` counts runs in the order of their first requests.
    whole = alone[np.argsort([seen[keys[run]] for run in alone])] if len(alone) else alone
    paths, starts, ends, parents = np.array(nodes.made, np.int64).reshape(-1, 4).T
    return PrefixTree(
        runs=runs,
        run_of=run_of,
        whole=whole,
        paths=paths,
        starts=starts,
        ends=ends,
        parents=parents,
        stops=_stops(parents),
        last=nodes.last,
    )


def _run(request: Request) -> bytes:
    is_asked = isinstance(request, Generate) or bool(request.continuation)
    if not request.context or not is_asked:
        raise ValueError(f"a request must have a context and something to answer, got {request}")
    ids = np.array(request.context, WIDE).tobytes()
    if isinstance(request, Generate):
        return ids
    return ids + np.array(request.continuation[:-1], WIDE).tobytes()


def _linked(runs: Sequence[Ids]) -> Ints:
    """Return how many tokens each run shares with the run before it, 0 if the two are not linked.

    Of sorted runs, any two share the least of what neighbours between them share.
    """
    shared = np.zeros(len(runs), np.int64)
    for index, (a, b) in enumerate(pairwise(runs), start=1):
        size = min(len(a), len(b))
        differs = a[:size] != b[:size]
        common = int(differs.argmax()) if differs.any() else size
        if common * LEAST_SHARE >= max(len(a), len(b)):
            shared[index] = common
    return shared


class _Nodes:
    """Nodes that grow in depth-first order."""

    def __init__(self, runs: Sequence[Ids]) -> None:
        self.lengths = [len(run) for run in runs]
        self.last = np.full(len(runs), -1, np.int64)
        self.made: list[tuple[int, int, int, int]] = []
        """Path, start, end and parent of each node."""

    def grow(self, shared: Ints, generates: np.ndarray[Any, np.dtype[np.bool_]]) -> None:
        """Add the nodes of all runs that are linked or generate."""
        # Each entry is a range of runs that begin alike: first, behind the last, common tokens that
        # have a node already, and that node.
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
            # Children begin where a run shares no more than this node with the run before it.
            cuts = [lo, *(lo + 1 + np.flatnonzero(between == end)).tolist(), hi]
            if self.lengths[lo] == end:
                # The shortest run comes first, and ends in this node.
                self.last[lo] = node
                del cuts[0]
            stack += [(a, b, end, node) for a, b in pairwise(cuts)][::-1]


def _stops(parents: Ints) -> Ints:
    stops = np.arange(1, len(parents) + 1)
    for node in range(len(parents) - 1, -1, -1):
        if parents[node] >= 0:
            stops[parents[node]] = max(stops[parents[node]], stops[node])
    return stops
