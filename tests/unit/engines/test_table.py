"""The seam between tasks and engines: every task with a likelihood runs on an engine of 40 lines.

Its model is a unigram model, so every number has a closed form.
"""

import inspect
import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from builders import fixed_text, prose
from scipy import stats as scipy_stats
from table_engine import Table

from harness.data.embedded import EmbeddedData
from harness.data.source import CHOICES
from harness.errors import UnsupportedEngine
from harness.tasks.base import TaskResult
from harness.tasks.divergence.divergence import Divergence
from harness.tasks.divergence.noise_floor import NoiseFloor
from harness.tasks.mmlu.direct import Direct
from harness.tasks.mmlu.mmlu import MMLU
from harness.tasks.parity.parity import Parity
from harness.tasks.perplexity.documents import Documents, detokenize
from harness.tasks.perplexity.llama_cpp import HalfWindows
from harness.tasks.perplexity.perplexity import Perplexity

VOCAB, WINDOW = 261, 40
P, Q = np.random.default_rng(0).dirichlet(np.ones(VOCAB), size=2)
PAGES = prose(700)[:300], prose(700)[300:600]
DATA = fixed_text("\n".join(PAGES), *PAGES)
QUESTIONS = MMLU(data=EmbeddedData(), answer=Direct(), shots=1, limit=30)


def table(q: np.ndarray = Q) -> Table:
    return Table(np.log(q), Table(np.log(P)))


def values(result: TaskResult) -> dict[str, float | None]:
    return {metric.name: metric.value for metric in result.metrics}


def cross_entropy(ids: list[int], q: np.ndarray = Q) -> float:
    return -sum(count * math.log(q[token]) for token, count in Counter(ids).items()) / len(ids)


def ids_of(text: str) -> list[int]:
    return list(Table.tokenizer.backend(text)["input_ids"])


def windows(first: int) -> list[int]:
    """Return the tokens from `first` on in every window."""
    ids = ids_of(DATA.content)
    starts = range(0, len(ids) - WINDOW + 1, WINDOW)
    return [token for start in starts for token in ids[start + first : start + WINDOW]]


@pytest.mark.parametrize(
    ("options", "scored"),
    [
        ({}, windows(1)),
        ({"segmentation": HalfWindows()}, windows(WINDOW // 2 + 1)),
        (
            {"segmentation": Documents()},
            [token for page in PAGES for token in ids_of(detokenize(page))],
        ),
    ],
    ids=["windows", "llama_cpp", "documents"],
)
def test_perplexity_is_the_exponential_of_the_cross_entropy(
    options: dict[str, Any], scored: list[int]
) -> None:
    result = Perplexity(data=DATA, window=WINDOW, **options).run(table())
    assert values(result)["nll"] == pytest.approx(cross_entropy(scored), rel=1e-12)
    tokens = [nll for sample in result.samples for nll in sample.token_nll]
    assert math.exp(np.mean(tokens)) == pytest.approx(math.exp(cross_entropy(scored)), rel=1e-12)


def test_divergence_is_that_of_the_two_tables() -> None:
    found = values(Divergence(data=DATA, window=WINDOW).run(table()))
    kl = scipy_stats.entropy(P, Q)
    for name in ("kl_mean", "kl_median", "kl_max"):
        assert found[name] == pytest.approx(kl, rel=1e-12), name
    assert found["same_top"] == float(P.argmax() == Q.argmax())
    change = cross_entropy(windows(1)) - cross_entropy(windows(1), P)
    assert found["ln_ppl_ratio"] == pytest.approx(change, rel=1e-12)
    nothing = values(Divergence(data=DATA, window=WINDOW).run(table(P)))
    assert nothing["kl_max"] == nothing["delta_p_rms"] == nothing["ln_ppl_ratio"] == 0


def test_every_answer_is_the_letter_with_the_largest_probability() -> None:
    letters = [Q[ids_of(f" {letter}")[0]] for letter in CHOICES]
    asked = QUESTIONS.questions()
    right = sum(question.answer == np.argmax(letters) for question in asked)
    result = QUESTIONS.run(table())
    assert values(result)["accuracy"] == right / len(asked)
    assert {sample.answer for sample in result.samples} == {CHOICES[int(np.argmax(letters))]}
    both = values(Divergence(data=DATA, window=WINDOW, questions=QUESTIONS).run(table()))
    before = [P[ids_of(f" {letter}")[0]] for letter in CHOICES]
    changes = [letters[question.answer] - before[question.answer] for question in asked]
    assert both["delta_p_right_mean"] == pytest.approx(np.mean(changes), rel=1e-12)
    assert both["answer_disagreement"] == float(np.argmax(letters) != np.argmax(before))


@pytest.mark.parametrize(
    "ask",
    [
        NoiseFloor(data=DATA, window=WINDOW).run,
        Parity(data=DATA, window=WINDOW, prompts="random").reference,
    ],
    ids=["noise_floor", "parity"],
)
def test_what_the_engine_cannot_do_is_unsupported(ask: Any) -> None:
    with pytest.raises(UnsupportedEngine, match="table"):
        ask(table())


def test_engine_has_less_than_40_lines() -> None:
    assert len(inspect.getsource(Table).splitlines()) < 40
