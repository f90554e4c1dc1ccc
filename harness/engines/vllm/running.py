"""Send prompts to a started vLLM, and check what it returns.

Prompts go in as token ids, and decoding is greedy. Ends of text are ignored, so that every request
gets its full number of tokens. (`min_tokens` would do that too, but by forbidding the end token,
which changes what is decoded.) Every answer must be to the prompt that was sent, whole and in
order, with as many tokens as were asked for.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from harness.errors import InvalidResult


@dataclass(frozen=True, kw_only=True, slots=True)
class Stamps:
    """When vLLM scheduled and answered a request; times of one monotonic clock [s].

    vLLM's `arrival_time` is of another clock and must not be subtracted from these.
    """

    scheduled: float
    first_token: float
    last_token: float
    first_token_latency: float | None
    """From arrival to the first token, as vLLM reports it; None in versions that do not [s]."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """The continuation of one prompt."""

    tokens: tuple[int, ...]
    stamps: Stamps | None
    """None where this version of vLLM stamps no requests."""


@dataclass(kw_only=True, slots=True, eq=False)
class Running:
    """A started vLLM that holds a model."""

    llm: Any
    """`vllm.LLM`; None once the engine is stopped."""
    sampling: Any
    """`vllm.SamplingParams`."""

    def generate(self, prompts: Sequence[Sequence[int]], new_tokens: int) -> list[Completion]:
        """Continue each prompt greedily by `new_tokens` tokens, end-of-text tokens included.

        Raises:
            InvalidResult: vLLM lost, cut or changed a prompt, or stopped early.
        """
        # Lists, because vLLM returns the ids of each prompt as a list to compare with.
        asked = [list(prompt) for prompt in prompts]
        outputs = self.llm.generate(
            [{"prompt_token_ids": prompt} for prompt in asked],
            # Temperature 0 is greedy. Text is decoded by the task, from the tokens.
            self.sampling(
                temperature=0.0, max_tokens=new_tokens, ignore_eos=True, detokenize=False
            ),
            # A bar on a terminal only.
            use_tqdm=sys.stderr.isatty(),
        )
        if len(outputs) != len(asked):
            raise InvalidResult(
                f"vLLM must answer {len(asked)} prompts, got {len(outputs)} answers"
            )
        return [_checked(*pair, new_tokens) for pair in zip(asked, outputs, strict=True)]


def _checked(prompt: list[int], output: Any, new_tokens: int) -> Completion:
    """Return the continuation in a `RequestOutput`, whose prompt and length must be as asked."""
    # A prompt beyond `max_model_len` may come back cut off.
    if list(output.prompt_token_ids or ()) != prompt:
        raise InvalidResult(
            f"vLLM must run every prompt as it is, got {len(output.prompt_token_ids or ())} tokens "
            f"for a prompt of {len(prompt)}, cut off or changed"
        )
    # One sequence is asked for each prompt.
    tokens = tuple(int(token) for token in output.outputs[0].token_ids)
    if len(tokens) != new_tokens:
        raise InvalidResult(
            f"vLLM must decode {new_tokens} tokens for each prompt, got {len(tokens)} "
            f"(finish_reason {output.outputs[0].finish_reason}); "
            "raise task.engine.max_model_len if it is set"
        )
    return Completion(tokens=tokens, stamps=_stamps(output.metrics))


def _stamps(metrics: Any) -> Stamps | None:
    """Return the stamps of a request, or None if one is missing.

    Versions of vLLM differ in what they keep: a stamp may be absent, None or 0.
    """
    names = ("scheduled_ts", "first_token_ts", "last_token_ts")
    scheduled, first, last = (float(getattr(metrics, name, 0.0) or 0.0) for name in names)
    # A stamp is 0.0 until it is set.
    if not scheduled or not first or not last:
        return None
    latency = float(getattr(metrics, "first_token_latency", 0.0) or 0.0)
    return Stamps(
        scheduled=scheduled,
        first_token=first,
        last_token=last,
        first_token_latency=latency or None,
    )
