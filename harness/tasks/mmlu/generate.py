r"""The generate rule: decode greedily and parse the answer.

Prompts are the same as for the direct rule. At most five tokens are decoded. A row stops at the
end-of-sequence token, or at the first line break after any other character, as in lm-eval's
`mmlu_generative`. Two rules parse the text:

    accuracy               the text begins with a lone letter A to D, perhaps in brackets or
                           asterisks: `^\s*[\(\[\*]*([ABCD])(?![A-Za-z0-9])`. Any other text is
                           unparsed: it counts as wrong, and `parse_rate` reports it
    accuracy_first_char    the first character that is not white space, in upper case. Published
                           studies use it. It reads "Answer: B" as A and "Because" as B, so it
                           serves comparisons only
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from harness.data.source import CHOICES
from harness.engines.local.prefix_batches import PromptBatch
from harness.errors import InvalidResult
from harness.models.loaded import LoadedModel
from harness.results.record import Metric, SampleScore
from harness.tasks.mmlu.accuracy import accuracy_metrics, proportion
from harness.tasks.mmlu.prompt import EncodedQuestion

MAX_NEW_TOKENS = 5
STRICT = re.compile(r"^\s*[\(\[\*]*([ABCD])(?![A-Za-z0-9])")


@dataclass(frozen=True, kw_only=True, slots=True)
class Generate:
    """The letter that greedy decoding writes; see `AnswerRule`."""

    task_name: ClassVar[str] = "mmlu_generate"
    protocol: ClassVar[str] = f"answer=greedy-{MAX_NEW_TOKENS}-tokens-strict"

    def score(
        self, loaded: LoadedModel, batch: PromptBatch, questions: Sequence[EncodedQuestion]
    ) -> list[SampleScore]:
        """Continue each prompt, and parse the text."""
        texts = complete(loaded, batch)
        return [_score(*pair) for pair in zip(questions, texts, strict=True)]

    def metrics(self, samples: Sequence[SampleScore]) -> list[Metric]:
        """Return accuracies by both parsing rules, and the share of parsed texts."""
        return [
            *accuracy_metrics(samples),
            proportion("parse_rate", [sample.scores["parsed"] for sample in samples]),
            proportion(
                "accuracy_first_char", [sample.scores["correct_first_char"] for sample in samples]
            ),
        ]


def complete(loaded: LoadedModel, batch: PromptBatch) -> list[str]:
    """Return the greedy continuation of each row, up to `MAX_NEW_TOKENS` tokens.

    Raises:
        InvalidResult: A logit is NaN.
    """
    eos = _eos_ids(loaded)
    produced: list[list[int]] = [[] for _ in batch.indices]
    tokens_B = _argmax(batch.first(decoding=True))
    for step in range(MAX_NEW_TOKENS):
        for row, token in zip(produced, tokens_B.tolist(), strict=True):
            row.append(token)
        # A row that has stopped runs on until all have; its text is cut below.
        if step == MAX_NEW_TOKENS - 1 or all(_until_stop(loaded, row, eos)[1] for row in produced):
            break
        tokens_B = _argmax(batch.then(tokens_B))
    return [_until_stop(loaded, row, eos)[0] for row in produced]


def _argmax(logits_BV: Tensor) -> Tensor:
    if logits_BV.isnan().any():  # argmax would take a NaN for the largest
        raise InvalidResult(
            "every logit must be finite, got NaN while decoding; "
            "the recipe destroys this model, or the weights are damaged"
        )
    return logits_BV.argmax(dim=-1)


def _eos_ids(loaded: LoadedModel) -> frozenset[int]:
    """Return the end tokens of the generation config and of the tokenizer."""
    configured = getattr(loaded.module.generation_config, "eos_token_id", None)
    listed = configured if isinstance(configured, list) else [configured]
    return frozenset(i for i in (*listed, loaded.tokenizer.eos_token_id) if i is not None)


def _until_stop(loaded: LoadedModel, row: list[int], eos: frozenset[int]) -> tuple[str, bool]:
    """Return the text of a row up to where it stops, and whether it has stopped."""
    end = next((i for i, token in enumerate(row) if token in eos), None)
    text = str(loaded.tokenizer.decode(row[:end]))
    # Line breaks before the first other character do not stop a row.
    lead = len(text) - len(text.lstrip())
    line_break = text.find("\n", lead)
    if line_break != -1:
        return text[:line_break], True
    return text, end is not None


def _score(encoded: EncodedQuestion, text: str) -> SampleScore:
    right = CHOICES[encoded.question.answer]
    found = STRICT.match(text)
    letter = found[1] if found else None
    return SampleScore(
        id=encoded.question.id,
        cluster=encoded.question.subject,
        answer=text,
        scores={
            "correct": float(letter == right),
            "parsed": float(letter is not None),
            "correct_first_char": float(text.strip()[:1].upper() == right),
        },
    )
