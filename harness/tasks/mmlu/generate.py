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

from harness.data.source import CHOICES
from harness.engines.base import Engine, Kind
from harness.engines.requests import Answer, Generated
from harness.engines.requests import Generate as GenerateRequest
from harness.results.record import Metric, SampleScore
from harness.tasks.chat import Chat
from harness.tasks.mmlu.accuracy import accuracy_metrics, proportion
from harness.tasks.mmlu.prompt import EncodedQuestion
from harness.tasks.mmlu.template import LETTERS, Template

MAX_NEW_TOKENS = 5
STRICT = re.compile(r"^\s*[\(\[\*]*([ABCD])(?![A-Za-z0-9])")


@dataclass(frozen=True, kw_only=True, slots=True)
class Generate:
    """The letter that greedy decoding writes; see `AnswerRule`."""

    task_name: ClassVar[str] = "mmlu_generate"
    asks: ClassVar[Kind] = "generate"
    template: ClassVar[Template] = LETTERS
    protocol: ClassVar[str] = f"answer=greedy-{MAX_NEW_TOKENS}-tokens-strict"

    def requests(
        self,
        engine: Engine,  # noqa: ARG002 - the model may write what it likes
        asked: Sequence[EncodedQuestion],
        chat: Chat,  # noqa: ARG002
    ) -> list[tuple[GenerateRequest]]:
        """Ask for the continuation of the prompt."""
        return [(GenerateRequest(each.ids, MAX_NEW_TOKENS, ("\n",)),) for each in asked]

    def sample(
        self, engine: Engine, encoded: EncodedQuestion, answers: Sequence[Answer]
    ) -> SampleScore:
        """Parse the text."""
        [answer] = answers
        assert isinstance(answer, Generated)  # noqa: S101 - the answer to a `Generate`
        return _score(encoded, first_line(engine.tokenizer.decode(answer.tokens)))

    def metrics(self, samples: Sequence[SampleScore]) -> list[Metric]:
        """Return accuracies by both parsing rules, and the share of parsed texts."""
        return [
            *accuracy_metrics(samples),
            proportion("parse_rate", [sample.scores["parsed"] for sample in samples]),
            proportion(
                "accuracy_first_char", [sample.scores["correct_first_char"] for sample in samples]
            ),
        ]


def first_line(text: str) -> str:
    """Return a text up to the first line break behind a character that is not white space."""
    lead = len(text) - len(text.lstrip())
    line_break = text.find("\n", lead)
    return text if line_break == -1 else text[:line_break]


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
