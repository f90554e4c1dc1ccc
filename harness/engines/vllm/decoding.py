"""Greedy decoding by vLLM, with the stops of `harness.engines.requests.Generate`.

A stop text ends an answer if any character but white space stands before it. vLLM stops at every
stop text, so an answer that begins with one is continued where vLLM stopped.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.engines.requests import Generate, Generated
from harness.engines.vllm.prompts import Prompt
from harness.errors import InvalidResult
from harness.models.tokens import Tokenizer


@dataclass(kw_only=True, slots=True)
class Decoding:
    """A request for decoding, and the tokens so far."""

    index: int
    """Index among all requests."""
    request: Generate
    tokens: list[int] = field(default_factory=list)
    """New token ids so far."""
    is_over: bool = False
    """Whether the answer is complete."""

    def prompt(self, end_ids: Sequence[int]) -> Prompt:
        """Return the prompt that continues the answer; `end_ids` are end-of-text tokens."""
        stop = [*self.request.stop]
        sampling = {
            "temperature": 0.0,
            "max_tokens": self.request.max_new_tokens - len(self.tokens),
            "stop": stop,
            "stop_token_ids": [*end_ids],
            "detokenize": bool(stop),
        }
        return Prompt(self.request.context + tuple(self.tokens), sampling)

    def take(self, output: Mapping[str, Any], end_ids: Sequence[int], tokenizer: Tokenizer) -> None:
        """Add the tokens of an output.

        Args:
            output: What vLLM returned for `prompt(end_ids)`.
            end_ids: End-of-text tokens.
            tokenizer: Decodes the answer, to find stop texts.

        Raises:
            InvalidResult: vLLM ran another prompt, or stopped too early or too late.
        """
        prompt, new = self.prompt(end_ids), output["tokens"]
        prompt.check(output)
        most = int(prompt.sampling["max_tokens"])
        end = next((i for i, token in enumerate(new) if token in end_ids), None)
        # vLLM also stops, with the reason `length`, where a sequence reaches `max_model_len`.
        stopped = output["finish_reason"] == "stop" and (end is not None or self.request.stop)
        if not new or len(new) > most or (len(new) < most and not stopped):
            raise InvalidResult(
                f"vLLM must decode {most} tokens, or up to a stop, got {len(new)} "
                f"(finish_reason {output['finish_reason']}); "
                "raise engine.max_model_len if it is set"
            )
        self.tokens += new[:end]
        self.is_over = (
            end is not None
            or len(new) == most
            or self.request.is_ended_by(tokenizer.decode(self.tokens))
        )

    def answer(self) -> Generated:
        """Return the answer, once it is over."""
        return Generated(tuple(self.tokens))
