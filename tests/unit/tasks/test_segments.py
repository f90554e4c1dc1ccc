"""Segments as requests: what an engine is asked, and what it answers."""

import numpy as np
import pytest
import torch

from harness.engines.local.engine import LocalEngine
from harness.engines.requests import Score
from harness.models.loaded import LoadedModel
from harness.tasks.segments import Segment, Segments

IDS = tuple(torch.randint(0, 256, (90,), generator=torch.Generator().manual_seed(0)).tolist())
BATCH = [Segment(IDS[:50], 30, 0), Segment(IDS[40:43], 2, 0), Segment(IDS[20:90], 1, 1)]


def test_request_scores_the_tokens_from_the_first_scored_one_on() -> None:
    assert Segment((10, 11, 12, 13, 14), 3, 0).request == Score((10, 11, 12), (13, 14))


def test_targets_are_the_scored_tokens_sample_by_sample() -> None:
    segments = (BATCH[2], BATCH[0], BATCH[1])
    cut = Segments(
        segments=segments,
        num_samples=2,
        documents=(),
        scored_bytes=0,
        scored_words=0,
        protocol="",
        facts={},
    )
    assert np.array_equal(cut.targets(), [*IDS[30:50], IDS[42], *IDS[21:90]])


def test_segments_score_together_what_each_scores_alone(tiny: LoadedModel) -> None:
    answers = dict(LocalEngine(tiny).answer([segment.request for segment in BATCH]))
    assert sorted(answers) == [0, 1, 2]
    for index, segment in enumerate(BATCH):
        with torch.no_grad():
            logits = tiny.module(torch.tensor([segment.ids])).logits[0].double()
        places = torch.arange(segment.first, len(segment.ids))
        targets = torch.tensor(segment.ids)[places]
        expected = logits.log_softmax(-1)[places - 1, targets].tolist()
        assert answers[index].log_probs.tolist() == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_last_token_is_a_target_and_no_input(tiny: LoadedModel) -> None:
    engine, last = LocalEngine(tiny), 200
    seen: list[int] = []
    handle = tiny.module.get_input_embeddings().register_forward_pre_hook(
        lambda _, args: seen.extend(args[0].flatten().tolist())
    )
    dict(engine.answer([Score((1, 2, 3), (4, last)), Score((5,), (6, 7, last))]))
    handle.remove()
    assert {1, 2, 3, 4, 5, 6, 7} <= set(seen)
    assert last not in seen
