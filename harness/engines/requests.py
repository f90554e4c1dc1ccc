"""What a task asks of an engine, and what the engine answers: token ids in, numbers and ids out.

    Score(context, continuation)     ln p of each token of the continuation, and whether it is the
                                     most likely one -> Scored
    Generate(context, max_new_tokens, stop)
                                     greedy decoding -> Generated
    Score, compared                  statistics of two full distributions before each token of the
                                     continuation -> Compared

An answer to a multiple-choice question is a continuation of one token. A window of text is a
context of one token and a continuation of all others. The last token of a continuation is looked up
and never run. Requests may share tokens: several continuations of one context, contexts that begin
alike. An engine may run shared tokens once; a task does not deal with it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self, TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]


class Score(NamedTuple):
    """A request for the log-probabilities of a continuation."""

    context: tuple[int, ...]
    """Token ids before the continuation, at least one. Requests with equal contexts should share
    the tuple: thousands of copies take memory."""
    continuation: tuple[int, ...]
    """Token ids that are scored, at least one."""


class Generate(NamedTuple):
    """A request for greedy decoding."""

    context: tuple[int, ...]
    """Token ids of the prompt, at least one."""
    max_new_tokens: int
    """Most tokens that are decoded."""
    stop: tuple[str, ...] = ()
    """Texts that end the answer, if any character but white space stands before them. The engine
    may decode further tokens; the task cuts the text."""

    def is_ended_by(self, text: str) -> bool:
        """Return whether a text holds a stop text behind a character that is not white space.

        An empty stop text ends nothing.
        """
        # From the second character on: the first one is not white space.
        return any(stop in text.lstrip()[1:] for stop in self.stop if stop)


Request: TypeAlias = Score | Generate


def num_run(request: Request) -> int:
    """Return the most tokens that run: all but the last one, which is looked up or the answer."""
    after = len(request.continuation) if isinstance(request, Score) else request.max_new_tokens
    return len(request.context) + max(after, 1) - 1


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """The answer to a `Score`, one entry for each token of the continuation."""

    log_probs: Array
    """ln p of each token, float64 [nat]. NaN or infinite where the model's logits are."""
    is_top: np.ndarray[Any, np.dtype[np.bool_]]
    """Whether no token of the vocabulary was more likely."""


class Generated(NamedTuple):
    """The answer to a `Generate`."""

    tokens: tuple[int, ...]
    """New token ids, without the end-of-text token that ended the answer."""


Answer: TypeAlias = Scored | Generated


class Compared(NamedTuple):
    """Statistics of two distributions before each token of a continuation, arrays of one shape.

    p is the distribution of the baseline, q that of the candidate.
    """

    nll: Array
    """-ln q of the token that follows [nat]."""
    nll_baseline: Array
    """-ln p of the token that follows [nat]."""
    kl: Array
    """KL(p || q) over the vocabulary [nat]."""
    same_top: Array
    """1 where both have the same most likely token, else 0; the first of tied tokens counts."""

    @classmethod
    def stack(cls, parts: Sequence["Compared"]) -> Self:
        """Return the statistics `[requests, T]` of requests of `[T]` each."""
        return cls(*(np.stack(arrays) for arrays in zip(*parts, strict=True)))

    @property
    def delta_p(self) -> Array:
        """q(x_t) - p(x_t) of the token x_t that follows."""
        return np.exp(-self.nll) - np.exp(-self.nll_baseline)
