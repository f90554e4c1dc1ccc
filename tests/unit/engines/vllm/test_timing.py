"""Timing by the stamps of a stand-in for vLLM whose clock is known."""

from collections.abc import Callable
from typing import Any

import pytest

from harness.engines.requests import Generate, Score
from harness.engines.timed import Stamps, Workload
from harness.errors import InvalidResult

WORKLOAD = Workload(prompts=((65, 66, 67), (70, 71, 72)), new_tokens=5)
STARTED, FIRST, LAST = 1000.5, 1000.75, 1000.75 + 4 * 0.01
"""What the clock of the stand-in says of the first prompt."""


def test_stamps_are_those_of_vllm(
    start: Any, told: Callable[..., None], asked: Callable[[str], list[Any]]
) -> None:
    told(spread_s=0.02)
    with start() as engine, engine.time(WORKLOAD) as model:
        timed = model.request()
        assert (model.device, model.runs_here) == ("cpu", False)
    first, second = timed.sequences
    assert first[:4] == pytest.approx((STARTED, FIRST, LAST, 0.4))
    assert second[:4] == pytest.approx((STARTED, FIRST + 0.02, LAST + 0.02, 0.4))
    assert timed.whole_s > 0
    [loaded] = asked("load")
    # One step prefills the batch, and no prompt is known from the round before.
    assert loaded["enable_prefix_caching"] is False
    assert (loaded["max_num_seqs"], loaded["max_num_batched_tokens"]) == (2, 6)
    assert loaded["disable_log_stats"] is False
    assert all(each["ignore_eos"] and each["max_tokens"] == 5 for each in asked("run")[0])


@pytest.mark.parametrize(
    ("told_of", "expected"),
    [({"stamped": False}, None), ({"latency": False}, Stamps(STARTED, FIRST, LAST, None))],
)
def test_version_that_lacks_stamps(
    start: Any, told: Callable[..., None], told_of: dict[str, Any], expected: Stamps | None
) -> None:
    told(**told_of)
    with start() as engine, engine.time(WORKLOAD) as model:
        found = model.request().sequences
    assert (found and found[0]) == expected


def test_answer_that_stops_early_is_an_invalid_result(
    start: Any, told: Callable[..., None]
) -> None:
    told(stop_early=True)
    with (
        start() as engine,
        engine.time(WORKLOAD) as model,
        pytest.raises(InvalidResult, match="decode 5 tokens"),
    ):
        model.request()


def test_model_is_loaded_anew_where_a_question_needs_it(
    start: Any, asked: Callable[[str], list[Any]]
) -> None:
    with start(extra={"max_num_batched_tokens": 512}) as engine:
        list(engine.answer([Score((65,), (66, 67))]))
        list(engine.answer([Generate((65,), 2), Score((65,), (66,))]))
        with engine.time(WORKLOAD) as model:
            model.request()
    # What the user set wins.
    assert [load["max_num_batched_tokens"] for load in asked("load")] == [512, 512]
