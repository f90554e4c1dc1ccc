"""Turn `Score` requests into prompts of vLLM, and vLLM's outputs back into answers.

The last token of a continuation is looked up and never run. So a request with the tokens a b and
the continuation c d e becomes the prompt a b c d:

    c, d   are tokens of the prompt           `prompt_logprobs` has them
    e      is a token that may follow it      `logprob_token_ids` has it

Requests with the same prompt become one, so the four letters of a question are looked up behind
one prompt. A continuation of one token needs no log-probabilities of the prompt, and vLLM can take
the beginning of such a prompt from its prefix cache.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from harness.engines.requests import Score, Scored
from harness.errors import InvalidResult

MOST_FOLLOWING = 128
"""Tokens that vLLM looks up at most behind one prompt (`MAX_LOGPROB_TOKEN_IDS`)."""


class Prompt(NamedTuple):
    """A sequence that vLLM runs."""

    ids: tuple[int, ...]
    """Token ids."""
    sampling: Mapping[str, Any]
    """Arguments of `vllm.SamplingParams`."""
    first: int = 0
    """Index of the first token whose log-probability is needed."""

    @property
    def num_tokens(self) -> int:
        """Number of tokens of the prompt and of its longest continuation."""
        return len(self.ids) + int(self.sampling["max_tokens"])

    def check(self, output: Mapping[str, Any]) -> None:
        """Check that an output is that of this prompt.

        Raises:
            InvalidResult: vLLM cut the prompt off, or changed it.
        """
        if output["ids"] != [*self.ids]:
            raise InvalidResult(
                f"vLLM must run every prompt as it is, got {len(output['ids'])} tokens for a "
                f"prompt of {len(self.ids)}, cut off or changed"
            )


@dataclass(kw_only=True, slots=True)
class Lookup:
    """Requests that differ in their last token at most, and that one prompt answers."""

    ids: tuple[int, ...]
    """The tokens of each request without its last one."""
    members: list[tuple[int, Score]] = field(default_factory=list)
    """Each request, with its index among all requests."""

    def prompt(self) -> Prompt:
        """Return the prompt that answers all requests."""
        first = min(len(request.context) for _, request in self.members)
        sampling: dict[str, Any] = {
            "temperature": 0.0,
            "max_tokens": 1,
            "detokenize": False,
            "logprob_token_ids": sorted({score.continuation[-1] for _, score in self.members}),
        }
        if first < len(self.ids):
            # vLLM gives the token itself and the most likely one. Its rank of the token does not
            # tell whether the token is a most likely one: equally likely tokens count too.
            sampling["prompt_logprobs"] = 1
        return Prompt(self.ids, sampling, first)

    def answers(self, output: Mapping[str, Any]) -> Iterator[tuple[int, Scored]]:
        """Yield the index of each request and its answer.

        Raises:
            InvalidResult: A log-probability is missing.
        """
        prompt = self.prompt()
        prompt.check(output)
        in_prompt = output["prompt_log_probs"] or []
        following = dict(output["next_log_probs"] or ())
        for index, (context, continuation) in self.members:
            # vLLM decodes the most likely token, and returns it beside those that were looked up.
            last = (following.get(continuation[-1]), max(following.values(), default=None))
            own, top = zip(*in_prompt[len(context) - prompt.first :], last, strict=True)
            if len(own) != len(continuation) or None in own:
                raise InvalidResult(
                    f"vLLM must give a log-probability for each of {len(continuation)} tokens, got "
                    f"{sum(value is not None for value in own)}"
                )
            log_probs = np.array(own, dtype=np.float64)
            yield index, Scored(log_probs, log_probs >= np.array(top, dtype=np.float64))


def lookups(requests: Sequence[tuple[int, Score]]) -> list[Lookup]:
    """Return lookups of requests whose tokens are equal but for the last.

    They are in the order of their first requests.

    Args:
        requests: Each request, with its index among all requests.
    """
    unfilled: dict[tuple[int, ...], Lookup] = {}
    found = []
    for index, request in requests:
        # Adding an empty tuple makes no copy: thousands of requests share the context.
        ids = request.context + request.continuation[:-1]
        known = unfilled.get(ids)
        if known is None or len(known.members) == MOST_FOLLOWING:
            known = unfilled[ids] = Lookup(ids=ids)
            found.append(known)
        known.members.append((index, request))
    return found
