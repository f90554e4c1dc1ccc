"""Task `mmlu_generate` with vLLM in the place of transformers (unverified, see `harness.engines.vllm.client`).

The prompts are the same token ids, and the text is read by the same rule: the tokens that vLLM has decoded are played back to it as
logits with a single peak. Samples therefore pair with those of `mmlu_generate`, question by question.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.engines.vllm.client import UNVERIFIED, VllmEngine
from harness.models.loaded import LoadedModel
from harness.results.record import SampleScore
from harness.tasks.base import TaskResult
from harness.tasks.mmlu.generate import MAX_NEW_TOKENS, Generate
from harness.tasks.mmlu.mmlu import MMLU
from harness.tasks.mmlu.prompt import EncodedQuestion


@dataclass(frozen=True, kw_only=True, slots=True)
class VllmMMLU(MMLU):
    """MMLU by decoding, where vLLM decodes."""

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
        return MMLU.data_facts(self) | self.engine.facts()

    def run_on(self, device: torch.device) -> TaskResult:
        """Ask vLLM every question."""
        loaded = self.engine.weightless()
        encoded = self._encoded(loaded)
        with self.engine.start(device) as running:
            completions = running.generate([item.ids for item in encoded], MAX_NEW_TOKENS)
        samples = [
            self._answer(loaded, item, completion.tokens)
            for item, completion in zip(encoded, completions, strict=True)
        ]
        info = self._info(encoded)
        return TaskResult(
            info=info.model_copy(
                update={
                    "protocol": f"{info.protocol}|engine={self.engine.label}",
                    "needs_model": False,
                }
            ),
            metrics=tuple(self.answer.metrics(samples)),
            samples=tuple(samples),
            warnings=(*self._warnings(encoded, samples), UNVERIFIED),
        )

    def _answer(
        self, loaded: LoadedModel, item: EncodedQuestion, tokens: Sequence[int]
    ) -> SampleScore:
        """Let the rule read what was decoded."""
        vocabulary = loaded.module.config.get_text_config().vocab_size
        played = Playback(tokens=tokens, vocabulary=vocabulary)
        [sample] = self.answer.score(loaded, played, [item])
        return sample


@dataclass(kw_only=True, slots=True, eq=False)
class Playback:
    """One prompt whose continuation is known; see `PromptBatch`."""

    tokens: Sequence[int]
    vocabulary: int
    position: int = 0
    indices: tuple[int, ...] = (0,)
    num_tokens: int = 0
    """None is run."""

    def first(self, *, decoding: bool = False) -> Tensor:  # noqa: ARG002 - there is nothing to prepare
        """Return logits of which the first token is the largest."""
        return self._logits()

    def then(self, tokens_B: Tensor) -> Tensor:  # noqa: ARG002 - it is the one that was played
        """Return logits of which the next token is the largest."""
        self.position += 1
        return self._logits()

    def _logits(self) -> Tensor:
        token_1 = torch.tensor([self.tokens[self.position]])
        return F.one_hot(token_1, self.vocabulary).float()
