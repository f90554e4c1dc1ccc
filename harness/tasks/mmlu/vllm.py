"""Task `mmlu_vllm`: `mmlu_generate` with vLLM in place of transformers (`harness.engines.vllm`).

Prompts are the same token ids, and the same rule parses the text: the tokens that vLLM decodes are
played back to the rule as one-hot logits. So each sample pairs with the sample of `mmlu_generate`
for the same question.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.engines.vllm.engine import UNVERIFIED, VllmEngine
from harness.models.loaded import LoadedModel
from harness.results.record import SampleScore
from harness.tasks.base import TaskResult
from harness.tasks.mmlu.generate import MAX_NEW_TOKENS, Generate
from harness.tasks.mmlu.mmlu import MMLU
from harness.tasks.mmlu.prompt import EncodedQuestion


@dataclass(frozen=True, kw_only=True, slots=True)
class VllmMMLU(MMLU):
    """MMLU by the generate rule, decoded by vLLM."""

    engine: VllmEngine
    """The checkpoint, and how vLLM runs it."""
    answer: Generate
    """How an answer is taken from the text that vLLM decodes."""

    @property
    def name(self) -> str:
        """`mmlu_vllm`."""
        return "mmlu_vllm"

    def data_facts(self) -> dict[str, Any]:
        """Return what identifies the questions, the engine and the checkpoint."""
        # `super()` fails in a dataclass with slots: the decorator makes a new class.
        return MMLU.data_facts(self) | self.engine.facts()

    def run_on(self, device: torch.device) -> TaskResult:
        """Ask vLLM every question."""
        loaded = self.engine.weightless()
        encoded = self._encoded(loaded)
        with self.engine.start(device) as running:
            completions = running.generate([each.ids for each in encoded], MAX_NEW_TOKENS)
        samples = [
            self._parsed(loaded, each, completion.tokens)
            for each, completion in zip(encoded, completions, strict=True)
        ]
        info = self._info(encoded)
        protocol = f"{info.protocol}|engine={self.engine.label}"
        return TaskResult(
            info=info.model_copy(update={"protocol": protocol, "needs_model": False}),
            metrics=tuple(self.answer.metrics(samples)),
            samples=tuple(samples),
            warnings=(*self._warnings(encoded, samples), UNVERIFIED),
        )

    def _parsed(
        self, loaded: LoadedModel, encoded: EncodedQuestion, tokens: Sequence[int]
    ) -> SampleScore:
        """Return the answer that the rule parses from decoded tokens."""
        vocabulary = loaded.vocab_size
        played = Playback(tokens=tokens, vocabulary=vocabulary)
        [sample] = self.answer.score(loaded, played, [encoded])
        return sample


@dataclass(kw_only=True, slots=True, eq=False)
class Playback:
    """A batch of one prompt whose continuation is known; see `PromptBatch`."""

    tokens: Sequence[int]
    vocabulary: int
    position: int = 0
    indices: tuple[int, ...] = (0,)
    num_tokens: int = 0
    """No token runs."""

    def first(self, *, decoding: bool = False) -> Tensor:  # noqa: ARG002 - nothing to prepare
        """Return one-hot logits of the first token."""
        return self._logits()

    def then(self, tokens_B: Tensor) -> Tensor:  # noqa: ARG002 - the token played last
        """Return one-hot logits of the next token."""
        self.position += 1
        return self._logits()

    def _logits(self) -> Tensor:
        token_1 = torch.tensor([self.tokens[self.position]])
        return F.one_hot(token_1, self.vocabulary).float()
