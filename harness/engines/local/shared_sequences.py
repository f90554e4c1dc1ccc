"""Answer the requests of a prefix tree.

1. Each pass of the tree runs some nodes (`tree_pass`).
2. What requests read in these nodes is read off their hidden states (`reading`).
3. Prompts that are to be continued wait, with their keys, until they fill a budget. Then they
   decode together (`decode_rows`, `greedy`): a step takes about as long for 60 rows as for 10.
4. Keys that neither a later node nor a waiting prompt needs are dropped.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from harness.engines.local.decode_rows import TreePath, TreeRows
from harness.engines.local.greedy import decode
from harness.engines.local.reading import Reader, Span, positions_of
from harness.engines.local.split_model import SplitModel
from harness.engines.local.tree_pass import Kept, run_pass
from harness.engines.requests import Answer, Generate, Request
from harness.engines.tree import PrefixTree

WAITING_BATCHES = 4
"""Batches of tokens that waiting prompts fill before they decode."""


class WaitingPrompt(NamedTuple):
    """A prompt that waits to be continued."""

    request: int
    """Index of its request."""
    token: int
    """First token of its continuation."""
    chain: tuple[int, ...]
    """Its nodes, the root first."""
    num_tokens: int
    """Tokens of its last node and of its continuation, which no other prompt shares."""


def answer_shared(
    model: SplitModel, requests: Sequence[Request], tree: PrefixTree, batch_tokens: int
) -> Iterator[tuple[int, Answer]]:
    """Yield the index of each request in a tree, and its answer.

    Args:
        model: The model.
        requests: All requests, also those outside the tree.
        tree: Their tree.
        batch_tokens: Tokens of a pass, and of a batch of waiting prompts.

    Raises:
        InvalidResult: A logit of a decoded position is NaN.
    """
    reader, kept = Reader(model, requests), Kept()
    spans, ending = _spans(requests, tree), _ending(tree)
    waiting: list[WaitingPrompt] = []
    for nodes in tree.passes(batch_tokens):
        chains = {index: tree.chain(node) for node in nodes for index in ending.get(node, ())}
        prompts = [index for index in chains if isinstance(requests[index], Generate)]
        needed = {node for index in prompts for node in chains[index]}
        keep = {node for node in nodes if node in needed or tree.stops[node] > nodes.stop}
        hidden_NH, places = run_pass(model, tree, nodes, kept, keep)
        # `places` has one entry more than `nodes`: the place behind the last node.
        read = [
            span.moved(place)
            for node, place in zip(nodes, places.tolist(), strict=False)
            for span in spans.get(node, ())
        ]
        tokens = reader.read(hidden_NH, read)
        yield from reader.take(chains)
        waiting += [_prompt(requests, tree, each, tokens[each], chains[each]) for each in prompts]
        while (count := _fitting(tree, waiting, WAITING_BATCHES * batch_tokens)) < len(waiting):
            yield from _decoded(model, requests, waiting[:count], kept)
            del waiting[:count]
        # The next node itself has no keys yet.
        later = tree.chain(nodes.stop) if nodes.stop < len(tree) else []
        kept.drop_all_but({*later, *(node for prompt in waiting for node in prompt.chain)})
    if waiting:
        yield from _decoded(model, requests, waiting, kept)


def _spans(requests: Sequence[Request], tree: PrefixTree) -> Mapping[int, list[Span]]:
    """Return the spans that are read in each node; its first token is at place 0."""
    spans = defaultdict(list)
    for index, request in enumerate(requests):
        first, last = positions_of(request)
        node = int(tree.last[tree.sequence_of[index]])
        # From the node that ends the sequence up to the one that holds the first position.
        while node >= 0 and tree.ends[node] > first:
            start, end = int(tree.starts[node]), int(tree.ends[node])
            lowest = max(first, start)
            spans[node].append(Span(index, lowest, min(last, end - 1), lowest - start))
            node = int(tree.parents[node])
    return spans


def _ending(tree: PrefixTree) -> Mapping[int, list[int]]:
    """Return the requests whose sequences end in each node."""
    ending = defaultdict(list)
    for index, node in enumerate(tree.last[tree.sequence_of].tolist()):
        ending[node].append(index)
    return ending


def _prompt(
    requests: Sequence[Request], tree: PrefixTree, index: int, token: int, chain: Sequence[int]
) -> WaitingPrompt:
    request = requests[index]
    assert isinstance(request, Generate)  # noqa: S101 - the caller's choice
    own = int(tree.ends[chain[-1]] - tree.starts[chain[-1]])
    return WaitingPrompt(index, token, tuple(chain), own + request.max_new_tokens)


def _fitting(tree: PrefixTree, waiting: Sequence[WaitingPrompt], budget: int) -> int:
    """Return how many prompts, from the first, fit into a budget of tokens; at least one.

    The last node of each prompt is a row, padded to the longest row. The nodes above are kept once.
    """
    above: set[int] = set()
    longest = num_above = 0
    for count, prompt in enumerate(waiting):
        longest = max(longest, prompt.num_tokens)
        new = set(prompt.chain[:-1]) - above
        num_above += sum(int(tree.ends[node] - tree.starts[node]) for node in new)
        above |= new
        if count and longest * (count + 1) + num_above > budget:
            return count
    return len(waiting)


def _decoded(
    model: SplitModel, requests: Sequence[Request], prompts: Sequence[WaitingPrompt], kept: Kept
) -> Iterator[tuple[int, Answer]]:
    """Continue some prompts together; yield the index of each request and its answer."""
    paths = [TreePath(tuple(kept.by_node[node] for node in prompt.chain)) for prompt in prompts]
    tokens = {prompt.request: prompt.token for prompt in prompts}
    yield from decode(model.loaded, requests, tokens, TreeRows(model, paths))
