"""Warn of scores that are finite and still say nothing about a model.

    a token has one probability at every position       the logits do not depend on the text: they
                                                        are constant, or the weights are zero
    a text of one token, repeated                       there is nothing to predict
    all answers tied, or all the same letter            accuracy is the share of this letter among
                                                        the right answers
    the right choice twice in a question                only one of the equal letters counts as
                                                        right

Such scores are measured and filed like others, because a test of a pipeline may want them.
"""

import math
from collections.abc import Sequence

import numpy as np

from harness.data.source import CHOICES, Question
from harness.engines.requests import Array
from harness.messages import plural
from harness.results.record import SampleScore

EQUAL_NLL = 1e-6
"""NLLs closer than this count as equal: a float32 matmul may round equal rows of a matrix to
different results [nat]."""
FEW_ANSWERS = 10
"""Fewer answers than this may be all one letter by chance, without a warning."""


def text_warnings(
    nll_N: Array, targets_N: np.ndarray[tuple[int, ...], np.dtype[np.int64]], whose: str
) -> tuple[str, ...]:
    """Return a warning if the NLLs of a text are meaningless.

    Args:
        nll_N: -ln p of each scored token, in an array of any shape.
        targets_N: The ids of these tokens.
        whose: The model in words, such as `the model`.
    """
    nll_N, targets_N = nll_N.ravel(), targets_N.ravel()
    # Equal tokens next to each other, so that `diff` compares their NLLs.
    order = np.argsort(targets_N, kind="stable")
    again = np.diff(targets_N[order]) == 0
    if len(nll_N) > 1 and again.all():
        return (
            f"all {len(nll_N)} scored tokens are the same one, id {targets_N[0]}: "
            "scores of this text say nothing of a model",
        )
    if not again.any() or np.abs(np.diff(nll_N[order])[again]).max() > EQUAL_NLL:
        return ()
    if np.ptp(nll_N) <= EQUAL_NLL:
        given = f"gives every token the same probability, 1 in {math.exp(nll_N[0]):.6g}"
    else:
        given = "gives a token the same probability wherever it stands"
    return (f"{whose} {given}: its logits do not depend on the text; are its weights zero?",)


def answer_warnings(
    questions: Sequence[Question], samples: Sequence[SampleScore]
) -> tuple[str, ...]:
    """Return warnings if accuracy is meaningless, for questions and their answers in one order."""
    found = []
    doubled = [q.id for q in questions if q.choices.count(q.choices[q.answer]) > 1]
    if doubled:
        found.append(
            f"{len(doubled)} of {len(questions)} questions have the right choice twice or more "
            f"({doubled[0]}): only one of the equal letters counts as right"
        )
    if samples and all(sample.scores.get("num_tied") == len(CHOICES) for sample in samples):
        found.append(
            f"all {len(samples)} {plural('question', len(samples))}: the {len(CHOICES)} letters "
            "are equally likely, so that the first is taken; the model predicts nothing, are its "
            "weights zero?"
        )
    elif len(samples) >= FEW_ANSWERS and len({sample.answer for sample in samples}) == 1:
        right = len({q.answer for q in questions})
        found.append(
            f"all {len(samples)} answers are {samples[0].answer!r}: accuracy is how often that is "
            f"right, of {right} letters that are right somewhere"
        )
    return tuple(found)
