"""An engine that shares and packs nothing: every request by whole forward passes."""

from collections.abc import Iterator, Sequence
from typing import ClassVar

import torch

from harness.engines.base import Engine, Kind
from harness.engines.requests import Answer, Generated, Request, Score, Scored
from harness.models.loaded import LoadedModel
from harness.models.tokens import Tokenizer, tokenizer_of


class PlainEngine(Engine):
    """Answers for a model, and keeps the requests."""

    label: ClassVar[str] = "plain"
    kinds: ClassVar[frozenset[Kind]] = frozenset({"score", "generate"})

    def __init__(self, loaded: LoadedModel) -> None:
        self.loaded = loaded
        self.asked: list[Request] = []

    @property
    def name(self) -> str:
        return self.loaded.name

    @property
    def tokenizer(self) -> Tokenizer:
        return tokenizer_of(self.loaded)

    @property
    def max_length(self) -> int | None:
        return self.loaded.max_length

    def answer(self, requests: Sequence[Request]) -> Iterator[tuple[int, Answer]]:
        self.asked += requests
        # Backwards: a client may not count on an order.
        for index, request in reversed([*enumerate(requests)]):
            yield (
                index,
                self._score(request) if isinstance(request, Score) else self._write(request),
            )

    def _log_probs(self, ids: Sequence[int]) -> torch.Tensor:
        with torch.inference_mode():
            return self.loaded.module(torch.tensor([ids])).logits[0].double().log_softmax(-1)

    def _score(self, request: Score) -> Scored:
        count = len(request.continuation)
        log_probs = self._log_probs([*request.context, *request.continuation[:-1]])[-count:]
        found = log_probs.gather(1, torch.tensor(request.continuation)[:, None])[:, 0]
        return Scored(found.numpy(), (found == log_probs.amax(-1)).numpy())

    def _write(self, request: Request) -> Generated:
        ids = list(request.context)
        for _ in range(request.max_new_tokens):
            token = int(self._log_probs(ids)[-1].argmax())
            if token == self.tokenizer.eos_id:
                break
            ids.append(token)
        return Generated(tuple(ids[len(request.context) :]))
