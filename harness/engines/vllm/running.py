"""The started engine: it turns the requests of a task into prompts, and outputs into answers."""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, TypeVar

from harness.engines.base import Engine, Kind
from harness.engines.requests import Answer, Generate, Request, Score
from harness.engines.timed import Workload
from harness.engines.vllm.decoding import Decoding
from harness.engines.vllm.prompts import lookups
from harness.engines.vllm.server import Server
from harness.engines.vllm.timing import TimedVllm
from harness.errors import ConfigError
from harness.models.loaded import LoadedModel
from harness.models.tokens import Tokenizer, end_ids, tokenizer_of

SCORING: Mapping[str, Any] = {"max_num_batched_tokens": 2048}
"""Arguments of `vllm.LLM` for log-probabilities of prompts. vLLM makes float32 logits of all
tokens of a step, and its memory plan does not count them: 1.2 GB for 2,048 tokens and a vocabulary
of 152,000."""
Made = TypeVar("Made")


class RunningVllm(Engine):
    """The engine for a checkpoint folder that vLLM runs."""

    label: ClassVar[str] = "vllm"
    kinds: ClassVar[frozenset[Kind]] = frozenset({"score", "generate", "time"})

    def __init__(
        self,
        server: Server,
        weightless: LoadedModel,
        max_model_len: int | None,
        facts: Mapping[str, Any],
        device: str,
        notes: tuple[str, ...] = (),
    ) -> None:
        """Answer for a model.

        Args:
            server: Runs the prompts.
            weightless: Tokenizer and configuration of the folder.
            max_model_len: Longest sequence that the user allows [token].
            facts: What identifies engine and checkpoint.
            device: Type of the device.
            notes: Warnings for every record.
        """
        self._server = server
        self._weightless = weightless
        self._max_model_len = max_model_len
        self._facts = facts
        self._device = device
        self._notes = notes

    @classmethod
    def refuses(cls, kind: Kind) -> str | None:
        """Return why vLLM cannot compare, or None."""
        if kind == "compare":
            return "vLLM returns the log-probabilities of some tokens, not of the whole vocabulary"
        return super().refuses(kind)

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self._weightless.name

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer in the folder."""
        return tokenizer_of(self._weightless)

    @property
    def max_length(self) -> int | None:
        """Longest sequence by the configuration and by the user [token]."""
        known = (self._weightless.max_length, self._max_model_len)
        return min((each for each in known if each is not None), default=None)

    @property
    def vocab_size(self) -> int:
        """Number of token ids that the model scores."""
        return self._weightless.vocab_size

    def describe(self) -> Mapping[str, Any]:
        """Return version and checkpoint."""
        return self._facts

    def warnings(self) -> tuple[str, ...]:
        """Return warnings about the folder, and about what is not verified."""
        return (*self._weightless.warnings, *self._notes)

    def cached(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """Return `make()`, computed once for each key and kept as long as the engine."""
        return self._weightless.cached(key, make)

    def answer(self, requests: Sequence[Request]) -> Iterator[tuple[int, Answer]]:
        """Yield the index of each request and its answer."""
        yield from self._scores(requests)
        yield from self._texts(requests)

    @contextmanager
    def time(self, workload: Workload) -> Iterator[TimedVllm]:
        """Context manager: the model, to be timed by vLLM's stamps."""
        yield TimedVllm(self._server, workload, self._device)

    def _scores(self, requests: Sequence[Request]) -> Iterator[tuple[int, Answer]]:
        """Yield the index of each `Score` and its answer."""
        found = lookups([(i, each) for i, each in enumerate(requests) if isinstance(each, Score)])
        prompts = [each.prompt() for each in found]
        self._check_room(max((len(prompt.ids) for prompt in prompts), default=0))
        scoring = any("prompt_logprobs" in prompt.sampling for prompt in prompts)
        if prompts:
            self._server.load(SCORING if scoring else {})
        for index, output in self._server.run(prompts):
            yield from found[index].answers(output)

    def _check_room(self, longest: int) -> None:
        """Check that vLLM can decode a token behind every prompt, where last tokens are looked up.

        Args:
            longest: Tokens of the longest prompt.

        Raises:
            ConfigError: It cannot. No model is loaded yet.
        """
        most = self.max_length
        if most is not None and longest >= most:
            raise ConfigError(
                f"engine=vllm must have room for one token behind each prompt, got a prompt of "
                f"{longest} tokens where {most} fit; lower task.shots, "
                f"task.max_length or task.window until prompts have {most - 1}, or leave engine out"
            )

    def _texts(self, requests: Sequence[Request]) -> Iterator[tuple[int, Answer]]:
        """Yield the index of each `Generate` and its answer."""
        left = [
            Decoding(index=i, request=each)
            for i, each in enumerate(requests)
            if isinstance(each, Generate)
        ]
        if left:
            self._server.load({})
        ends = tuple(sorted(end_ids(self._weightless)))
        while left:
            asked = [each.prompt(ends) for each in left]
            for index, output in self._server.run(asked):
                left[index].take(output, ends, self.tokenizer)
                if left[index].is_over:
                    yield left[index].index, left[index].answer()
            left = [each for each in left if not each.is_over]
