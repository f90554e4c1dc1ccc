"""Answers of the engine, beside a bigram model worked out by numpy."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from harness.engines.requests import Generate, Generated, Request, Score, Scored
from harness.engines.vllm import server
from harness.engines.vllm.prompts import MOST_FOLLOWING
from harness.errors import ConfigError, InvalidResult, ModelError, UnsupportedEngine

Array = np.ndarray[Any, Any]
CONTEXT = (65, 66, 67)
SCORES = (
    Score(CONTEXT, (70, 71, 72)),
    Score((65,), (66, 67, 70, 71, 99)),  # the prompt of the first with another last token
    *(Score(CONTEXT, (token,)) for token in (1, 2, 3, 4)),
    Score((5,), (6,)),
)


def log_probs(logits: Array) -> Array:
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def test_scores_are_those_of_the_model(
    start: Any, logits: Array, asked: Callable[[str], list[Any]]
) -> None:
    with start() as engine:
        answers = dict(engine.answer(SCORES))
    expected = log_probs(logits)
    for index, (context, continuation) in enumerate(SCORES):
        answer = answers[index]
        assert isinstance(answer, Scored)
        pairs = list(zip((context[-1], *continuation), continuation, strict=False))
        np.testing.assert_allclose(answer.log_probs, [expected[pair] for pair in pairs], rtol=1e-12)
        assert answer.log_probs.dtype == np.float64
        assert answer.is_top.tolist() == [logits[a, b] == logits[a].max() for a, b in pairs]
    [run] = asked("run")
    assert [each["logprob_token_ids"] for each in run] == [[72, 99], [1, 2, 3, 4], [6]]
    assert [each["prompt_logprobs"] for each in run] == [1, None, None]
    [loaded] = asked("load")
    assert loaded["max_num_batched_tokens"] == 2048


def test_every_one_of_tied_tokens_is_the_likeliest(start: Any, logits: Array) -> None:
    tops = np.argwhere(logits == logits.max(-1, keepdims=True))
    before = next(row for row in tops[:, 0] if np.sum(tops[:, 0] == row) > 1)
    tied = [int(token) for row, token in tops if row == before]
    requests = [Score((9,), (int(before), token, 3)) for token in tied]
    with start() as engine:
        answers = dict(engine.answer(requests))
    assert all(answer.is_top[1] for answer in answers.values())


def test_more_tokens_than_vllm_looks_up_at_once_are_asked_in_turns(
    start: Any, logits: Array, asked: Callable[[str], list[Any]]
) -> None:
    count = MOST_FOLLOWING + 2
    with start() as engine:
        answers = dict(engine.answer([Score(CONTEXT, (token,)) for token in range(count)]))
    found = [answers[index].log_probs[0] for index in range(count)]
    np.testing.assert_allclose(found, log_probs(logits)[67, :count], rtol=1e-12)
    assert [len(each["logprob_token_ids"]) for each in asked("run")[0]] == [MOST_FOLLOWING, 2]


def greedy(logits: Array, before: int, count: int) -> list[int]:
    tokens: list[int] = []
    while len(tokens) < count:
        before = int(logits[before].argmax())
        tokens.append(before)
    return tokens


def test_text_goes_on_past_a_stop_that_only_white_space_precedes(
    start: Any, logits: Array, folder: Any, asked: Callable[[str], list[Any]]
) -> None:
    with start() as engine:
        decode = engine.tokenizer.decode
        whole = greedy(logits, 67, 12)
        first, later = decode(whole[:1]), decode(whole[4:5])
        assert first not in decode(whole[1:]), "the test needs a first token that does not return"
        [(_, answer)] = engine.answer([Generate(CONTEXT, 12, (first, later))])
    # The first text of the answer has nothing before it: vLLM stops there, the answer does not.
    text = decode(whole)
    end = next(i for i in range(1, 13) if later in decode(whole[:i]).lstrip()[1:])
    assert [*answer.tokens] == whole[:end], text
    assert len(asked("run")) == 2


def test_end_of_text_ends_an_answer_and_is_not_in_it(start: Any) -> None:
    requests = [Generate((101,), 40, ("never",)), Generate((100,), 40), Generate((101,), 1)]
    with start() as engine:
        answers = dict(engine.answer(requests))
    assert answers == {0: Generated((100,)), 1: Generated(()), 2: Generated((100,))}


def test_prompts_go_out_in_bounded_batches(
    start: Any, monkeypatch: pytest.MonkeyPatch, asked: Callable[[str], list[Any]]
) -> None:
    monkeypatch.setattr(server, "SENT_TOKENS", 10)
    with start() as engine:
        assert len(dict(engine.answer([Generate(CONTEXT, 2)] * 5))) == 5
    assert [len(run) for run in asked("run")] == [2, 2, 1]


@pytest.mark.parametrize(
    ("wrong", "request_", "message"),
    [
        ({"truncate_to": 2}, Score(CONTEXT, (1,)), "every prompt as it is, got 2 tokens"),
        ({"truncate_to": 2}, Generate(CONTEXT, 3), "every prompt as it is, got 2 tokens"),
        ({"lose_last": True}, Score(CONTEXT, (1,)), "must answer 1 prompts, got 0"),
        (
            {"stop_early": True},
            Generate(CONTEXT, 3),
            r"decode 3 tokens.* got 1 \(finish_reason stop",
        ),
    ],
)
def test_answer_to_something_else_is_an_invalid_result(
    start: Any, told: Callable[..., None], wrong: dict[str, Any], request_: Request, message: str
) -> None:
    told(**wrong)
    with start() as engine, pytest.raises(InvalidResult, match=message):
        list(engine.answer([request_]))


def test_prompt_that_leaves_no_room_for_a_token_is_told_before_anything_is_loaded(
    start: Any, asked: Callable[[str], list[Any]]
) -> None:
    with start(max_model_len=8) as engine:
        with pytest.raises(ConfigError, match=r"got a prompt of 8 tokens where 8 fit; .* have 7"):
            list(engine.answer([Score((1,), (2,) * 8)]))
        assert not asked("load")
        [(_, answer)] = engine.answer([Score((1,), (2,) * 7)])
    assert len(answer.log_probs) == 7


def test_folder_that_vllm_refuses_is_a_model_error(start: Any, told: Callable[..., None]) -> None:
    told(refuse="Unknown quantization method: other")
    with (
        start() as engine,
        pytest.raises(ModelError, match=r"folder that vLLM loads.*Unknown quant"),
    ):
        list(engine.answer([Generate(CONTEXT, 3)]))


def test_comparison_is_refused_with_the_reason(start: Any) -> None:
    with start() as engine:
        assert "whole vocabulary" in str(engine.refuses("compare"))
        with pytest.raises(UnsupportedEngine, match="whole vocabulary"):
            engine.compare(engine, [])
        assert (
            engine.refuses("score") is engine.refuses("generate") is engine.refuses("time") is None
        )
