"""Tokens of MMLU that run, for all questions with the tokenizer of SmolLM2."""

import os

import pytest
import torch

from harness.data.hub import HubData
from harness.engines.requests import Generate, Request, Score
from harness.engines.tree import num_tokens, prefix_tree
from harness.models.sources.embedded import EmbeddedModel
from harness.models.tokens import tokenizer_of
from harness.tasks.mmlu.prompt import prompt

pytestmark = pytest.mark.slow


@pytest.mark.skipif("HARNESS_DATA" not in os.environ, reason="needs HARNESS_DATA")
def test_mmlu_runs_the_tokens_of_one_full_tree_a_subject() -> None:
    tokenizer = tokenizer_of(EmbeddedModel().load(torch.device("cpu")))
    data = HubData().questions()
    letters = [tokenizer.encode(f" {letter}").ids[0] for letter in "ABCD"]
    requests: list[Request] = []
    prefixes: dict[str, set[int]] = {}
    for question in data.questions:
        ids = tuple(tokenizer.encode(prompt(question, data.shots(question, 5))).ids)
        requests += [Score(ids, (letter,)) for letter in letters]
        requests.append(Generate(ids, 5))
        # A rolling hash of each beginning; 10 million of them collide with a chance of 1e-5.
        seen, value = prefixes.setdefault(question.subject, set()), 0
        for token in ids:
            value = hash((value, token))
            seen.add(value)
    assert len(data.questions) == 14_042
    found = num_tokens(prefix_tree(requests))
    assert found == sum(map(len, prefixes.values()))
    assert found <= 1_376_281
