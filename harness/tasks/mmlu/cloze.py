r"""The cloze rule: the answer is the choice whose text is most likely for its length.

Small models answer MMLU by letters about as often as guessing does, even where they know the fact.
So their evaluations do not list the choices. They score the text of each choice as a continuation
of the question:

    The following are questions (with answers) about {subject}.\n\n
    Question: {question}\nAnswer: {choice}\n\n
    Question: {question}\nAnswer:

Texts of several lengths are compared by ln p(text) / number of characters, else the shortest choice
would mostly win. Prompts, tokens and both accuracies are those of lm-eval 0.4.13's task
`mmlu_continuation`:

    accuracy                by ln p per character of the choice (Unicode code points, without the
                            space before it): lm-eval's `acc_norm`
    accuracy_unnormalized   by ln p: lm-eval's `acc`

`lead` is ln p per character of the right choice minus that of the best wrong one, in the mean
over questions. It changes with every question, where accuracy changes with flips alone.

A choice may be the beginning of another one: each has its own tokens after the prompt. Equal
choices of a question tie. A choice without characters has no length to divide by: an error.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from harness import stats
from harness.data.source import Question
from harness.engines.base import Engine, Kind
from harness.engines.requests import Answer, Score
from harness.errors import DataError
from harness.results.record import Metric, SampleScore, Unit
from harness.tasks.chat import Chat
from harness.tasks.mmlu import ties
from harness.tasks.mmlu.accuracy import accuracy_metrics, proportion
from harness.tasks.mmlu.prompt import EncodedQuestion, check_lengths
from harness.tasks.mmlu.template import Template, continuation

TEXTS = Template(
    name="lm-eval-0.4.13-continuation",
    description="The following are questions (with answers) about {subject}.\n\n",
    ask=lambda question: f"Question: {question.question.strip()}\nAnswer:",
    reply=lambda shot: shot.choices[shot.answer],
)
"""Prompts that do not list the choices. The answer is the text of a choice."""
NOTE = "by ln p of the text of a choice, divided by its number of characters"
NOTE_UNNORMALIZED = "by ln p of the text of a choice, whatever its length"


@dataclass(frozen=True, kw_only=True, slots=True)
class Cloze:
    """The most likely text for its length; see `AnswerRule`."""

    task_name: ClassVar[str] = "mmlu_cloze"
    protocol: ClassVar[str] = "answer=log-prob-of-text-per-character-fp64"
    asks: ClassVar[Kind] = "score"
    template: ClassVar[Template] = TEXTS

    def requests(
        self, engine: Engine, asked: Sequence[EncodedQuestion], chat: Chat
    ) -> list[tuple[Score, ...]]:
        """Ask for the log-probability of the text of each choice.

        Raises:
            DataError: A choice is empty, has no token, or does not fit into the model.
        """
        pairs = tuple(
            (each.text, continuation(choice, chat))
            for each in asked
            for choice in each.question.choices
        )
        tokenizer = engine.tokenizer
        ids = iter(
            tokenizer.cached(  # once a sweep
                ("continuations", pairs), lambda: [own for _, own in tokenizer.encode_pairs(pairs)]
            )
        )
        found = [
            tuple(Score(each.context, next(ids)) for _ in each.question.choices) for each in asked
        ]
        for each, scores in zip(asked, found, strict=True):
            _check_choices(each.question, scores, engine.name)
        # The last token of a choice is looked up and never run.
        runs = (
            (each.question, len(score.context) + len(score.continuation) - 1)
            for each, scores in zip(asked, found, strict=True)
            for score in scores
        )
        check_lengths(engine, runs, "prompt with a choice")
        return found

    def sample(
        self,
        engine: Engine,  # noqa: ARG002 - the texts are known
        encoded: EncodedQuestion,
        answers: Sequence[Answer],
    ) -> SampleScore:
        """Compare the log-probabilities of the texts, divided by their lengths."""
        return _score(encoded.question, ties.log_probs(answers))

    def metrics(self, samples: Sequence[SampleScore]) -> list[Metric]:
        """Return accuracies with and without the division by length, and ties."""
        headline, *others = accuracy_metrics(samples)
        plain = [sample.scores["correct_unnormalized"] for sample in samples]
        return [
            headline.model_copy(update={"note": NOTE}),
            *others,
            proportion("accuracy_unnormalized", plain).model_copy(
                update={"note": NOTE_UNNORMALIZED}
            ),
            _lead_metric([sample.scores["lead"] for sample in samples]),
            *ties.tie_metrics(samples),
        ]


def _check_choices(question: Question, scores: Sequence[Score], model: str) -> None:
    """Check that each choice has a length, and something to score."""
    for choice, score in zip(question.choices, scores, strict=True):
        if choice and score.continuation:
            continue
        got = f"no token for {choice!r} with the tokenizer of {model}" if choice else "an empty one"
        raise DataError(
            f"{question.id}: every choice must have a character and a token, so that its text can "
            f"be scored, got {got}; mend or remove the question, or choose task=mmlu"
        )


def _lead_metric(leads: Sequence[float]) -> Metric:
    interval = stats.mean_interval(leads)
    return Metric(
        name="lead",
        value=math.fsum(leads) / len(leads),
        unit=Unit.NAT_PER_CHARACTER,
        n=len(leads),
        n_of="question",
        ci95=interval,
        higher_is_better=True,
        note=f"{NOTE}: the right choice minus the best wrong one"
        + ("" if interval else f"; no interval from fewer than {stats.MIN_CLUSTERS} questions"),
    )


def _score(question: Question, log_probs: Sequence[float]) -> SampleScore:
    """Return the answer to a question, given ln p of the text of each choice."""
    lengths = [len(choice) for choice in question.choices]
    per_character = [value / length for value, length in zip(log_probs, lengths, strict=True)]
    wrong = [value for index, value in enumerate(per_character) if index != question.answer]
    # Of equal values the first is taken, as in lm-eval.
    likeliest = max(range(len(log_probs)), key=lambda index: log_probs[index])
    scores = {
        **ties.by_letter("log_prob", log_probs),
        **ties.by_letter("num_chars", lengths),
        "correct_unnormalized": float(likeliest == question.answer),
        "lead": per_character[question.answer] - max(wrong),
    }
    return ties.sample_of(question, per_character, scores)
