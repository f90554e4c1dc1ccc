"""Batches by token budget, and the pass over one of them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.engines.local.split_model import split
from harness.models.loaded import LoadedModel
from harness.tasks.segments import Segment, batch_segments, score_segments


def segments(lengths: list[int]) -> list[Segment]:
    return [Segment(torch.zeros(length, dtype=torch.long), 1, 0) for length in lengths]


@given(st.lists(st.integers(2, 300), max_size=60), st.integers(1, 1000))
def test_batches_keep_the_budget_and_have_every_segment_once(
    lengths: list[int], budget: int
) -> None:
    found = list(batch_segments(segments(lengths), budget))
    assert sorted(index for batch in found for index in batch) == list(range(len(lengths)))
    for batch in found:
        longest = max(lengths[index] for index in batch)
        assert len(batch) == 1 or longest * len(batch) <= budget
    # Longest first: the first batch needs the most memory, and the padding is small.
    in_order = [lengths[index] for batch in found for index in batch]
    assert in_order == sorted(lengths, reverse=True)


@pytest.mark.parametrize(("budget", "sizes"), [(1, [1] * 5), (20, [2, 2, 1]), (59, [5]), (50, [5])])
def test_batches_are_as_large_as_the_budget_allows(budget: int, sizes: list[int]) -> None:
    assert [len(batch) for batch in batch_segments(segments([10] * 5), budget)] == sizes


def test_windows_of_one_length_stay_in_order() -> None:
    assert list(batch_segments(segments([8] * 5), 16)) == [[0, 1], [2, 3], [4]]


def test_no_segments_make_no_batch() -> None:
    assert list(batch_segments([], 100)) == []


def test_segments_of_a_batch_score_what_each_scores_alone(tiny: LoadedModel) -> None:
    ids = torch.randint(0, 256, (90,), generator=torch.Generator().manual_seed(0))
    batch = [Segment(ids[:50], 30, 0), Segment(ids[40:43], 2, 0), Segment(ids[20:90], 1, 1)]
    with split(tiny) as model:
        together = score_segments(model, batch)
    for segment, found in zip(batch, together, strict=True):
        with torch.no_grad():
            log_probs = tiny.module(segment.ids[None]).logits[0].double().log_softmax(-1)
        expected = [
            -float(log_probs[t - 1, segment.ids[t]]) for t in range(segment.first, len(segment.ids))
        ]
        assert found.tolist() == pytest.approx(expected, rel=1e-5, abs=1e-6)
        assert len(found) == segment.num_scored


def test_last_token_is_a_target_and_no_input(tiny: LoadedModel) -> None:
    shapes = []
    embedding = tiny.module.get_input_embeddings()
    handle = embedding.register_forward_pre_hook(lambda _, args: shapes.append(args[0].shape))
    with split(tiny) as model:
        score_segments(model, [Segment(torch.arange(12), 1, 0), Segment(torch.arange(7), 3, 1)])
    handle.remove()
    assert shapes == [(2, 11)]
