"""Prefix trees against sets of prefixes and plain walks over the requests."""

import os.path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.engines.requests import Generate, Request, Score
from harness.engines.tree import LEAST_SHARE, PrefixTree, num_tokens, prefix_tree

few = st.lists(st.integers(0, 2), min_size=1, max_size=9).map(tuple)
some_requests = st.lists(
    st.one_of(st.builds(Score, few, few), st.builds(Generate, few, st.just(3))),
    min_size=1,
    max_size=12,
)


def sequence(request: Request) -> tuple[int, ...]:
    if isinstance(request, Generate):
        return request.context
    return (*request.context, *request.continuation[:-1])


def tokens_of(tree: PrefixTree, node: int) -> tuple[int, ...]:
    return tuple(token for each in tree.chain(node) for token in tree.ids(each).tolist())


def linked_groups(requests: list[Request]) -> list[list[tuple[int, ...]]]:
    """Distinct sequences in order, cut where neighbours share too little of the longer one."""
    groups: list[list[tuple[int, ...]]] = []
    for each in sorted(set(map(sequence, requests))):
        if groups:
            before = groups[-1][-1]
            # Of sequences of any kind, despite its home.
            common = len(os.path.commonprefix([before, each]))  # noqa: RUF071
            if common * LEAST_SHARE >= max(len(before), len(each)):
                groups[-1].append(each)
                continue
        groups.append([each])
    return groups


@settings(max_examples=300, deadline=None)
@given(requests=some_requests)
def test_every_shared_token_stands_in_the_tree_once(requests: list[Request]) -> None:
    tree = prefix_tree(requests)
    # Distinct prefixes of a group of sequences are the tokens that its tree runs.
    assert num_tokens(tree) == sum(
        len({each[:n] for each in group for n in range(1, len(each) + 1)})
        for group in linked_groups(requests)
    )


@settings(max_examples=300, deadline=None)
@given(requests=some_requests)
def test_nodes_on_the_way_to_a_request_hold_its_sequence(requests: list[Request]) -> None:
    tree = prefix_tree(requests)
    generated = {sequence(each) for each in requests if isinstance(each, Generate)}
    alone = {g[0] for g in linked_groups(requests) if len(g) == 1 and g[0] not in generated}
    for index, request in enumerate(requests):
        number = tree.sequence_of[index]
        if tree.last[number] >= 0:
            assert tokens_of(tree, int(tree.last[number])) == sequence(request)
        else:
            assert tuple(tree.sequences[number].tolist()) == sequence(request)
            assert number in tree.whole
            assert sequence(request) in alone
    assert len(tree.whole) == len(alone)


@settings(max_examples=300, deadline=None)
@given(requests=some_requests, batch_tokens=st.integers(1, 20))
def test_passes_hold_every_node_once_and_its_subtree_behind_it(
    requests: list[Request], batch_tokens: int
) -> None:
    tree = prefix_tree(requests)
    lengths = tree.ends - tree.starts
    assert (lengths > 0).all()
    made = list(tree.passes(batch_tokens))
    assert [node for nodes in made for node in nodes] == list(range(len(tree)))
    for nodes in made:
        assert len(nodes) == 1 or lengths[nodes.start : nodes.stop].sum() <= batch_tokens
    for node in range(len(tree)):
        below = [other for other in range(len(tree)) if node in tree.chain(other)]
        assert below == list(range(node, tree.stops[node]))


def test_four_letters_and_equal_prompts_are_one_leaf() -> None:
    prompts = [(*range(50), 60 + i, 70) for i in range(3)]
    requests = [
        Score(prompt, (letter,)) for prompt in (*prompts, prompts[0]) for letter in range(4)
    ]
    tree = prefix_tree([*requests, Generate(prompts[1], 5)])
    assert num_tokens(tree) == 50 + 3 * 2
    assert len(tree) == 4


def test_windows_that_share_a_bos_alone_run_whole_in_the_order_of_requests() -> None:
    windows = [(0, *range(start, start + 40)) for start in (9, 3, 6)]
    tree = prefix_tree([Score(window[:1], window[1:]) for window in windows])
    assert len(tree) == 0
    assert [tuple(tree.sequences[i].tolist()) for i in tree.whole] == [w[:-1] for w in windows]


def test_less_than_an_eighth_of_all_tokens_runs_again() -> None:
    # The worst case: short and long sequences in turn, and no two neighbours share quite enough.
    length, shared = 10 * LEAST_SHARE, tuple(range(9))
    requests = []
    for i in range(50):
        requests.append(Generate((*shared, 1000 + 2 * i), 1))
        tail = range(5000 + i * length, 5000 + (i + 1) * length - len(shared) - 1)
        requests.append(Score((*shared, 1001 + 2 * i), (*tail, 1)))
    sequences = list(map(sequence, requests))
    distinct = len({each[:n] for each in sequences for n in range(1, len(each) + 1)})
    again = 1 - distinct / num_tokens(prefix_tree(requests))
    assert 1 / LEAST_SHARE < again < 2 / LEAST_SHARE


def test_long_prompts_take_four_bytes_a_token() -> None:
    shared = tuple(range(700))
    tree = prefix_tree([Score((*shared, i, *range(i)), (1,)) for i in range(100)])
    assert sum(each.nbytes for each in tree.sequences) == 4 * sum(map(len, tree.sequences))
    assert np.shares_memory(tree.ids(0), tree.sequences[0])


def test_without_sharing_every_sequence_is_whole() -> None:
    requests = [Generate((1, 2, 3), 4), Generate((1, 2, 3, 4), 4), Generate((1, 2, 3), 9)]
    tree = prefix_tree(requests, share=False)
    assert len(tree) == 0
    assert num_tokens(tree) == 7


@pytest.mark.parametrize("request_", [Score((), (1,)), Score((1,), ()), Generate((), 2)])
def test_a_request_without_context_or_continuation_is_an_error(request_: Request) -> None:
    with pytest.raises(ValueError, match="must have a context and something to answer"):
        prefix_tree([request_])
