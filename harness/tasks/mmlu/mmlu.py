"""The task: choose questions, run their prompts, and let a rule take the answers.

Hendrycks et al., "Measuring Massive Multitask Language Understanding" (2021). The rule is the part
that can be swapped: `direct` or `generate`.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from harness.data.overlap import Scored, own_examples
from harness.data.source import DataSource, Question, hash_questions, repeated_questions
from harness.display.progress import bar
from harness.engines.local.prefix_batches import prompt_batches
from harness.engines.local.prefix_support import unsupported
from harness.engines.local.split_model import split
from harness.errors import ConfigError, check_bounds
from harness.models.loaded import LoadedModel
from harness.models.tokens import hash_token_ids
from harness.results.record import SampleScore, TaskInfo
from harness.tasks.base import BATCH_TOKENS, TaskResult
from harness.tasks.degenerate import answer_warnings
from harness.tasks.mmlu.accuracy import running_accuracy
from harness.tasks.mmlu.answer_rule import AnswerRule
from harness.tasks.mmlu.prompt import EncodedQuestion, encode
from harness.tasks.mmlu.questions import select


@dataclass(frozen=True, kw_only=True, slots=True)
class MMLU:
    """MMLU with a rule that takes the answers."""

    needs_trained_weights: ClassVar[bool] = True
    is_timed: ClassVar[bool] = False

    data: DataSource
    """Where the questions come from."""
    answer: AnswerRule
    """How an answer is taken from the model."""
    shots: int | None = None
    """Solved examples before each question; None is the data set's own number (5 for MMLU)."""
    limit: int | None = None
    """Questions to draw; None is all."""
    subjects: tuple[str, ...] | None = None
    """Subjects to ask; None is all."""
    seed: int = 42
    """Seed of the draw."""
    batch_tokens: int | None = None
    """Tokens a batch, without the shared prefix; None is `BATCH_TOKENS`."""

    def __post_init__(self) -> None:
        """Check bounds, and that there is a subject."""
        check_bounds(self, shots=0, limit=1, batch_tokens=1)
        if self.subjects is not None and not self.subjects:
            raise ValueError("subjects must name at least one subject or be null, got []")

    @property
    def name(self) -> str:
        """Name of the rule's task, `mmlu` or `mmlu_generate`."""
        return self.answer.task_name

    @property
    def version(self) -> int:
        """Version of the rule; 1 for a rule without one."""
        return getattr(self.answer, "version", 1)

    @property
    def seeds(self) -> dict[str, int]:
        """The seed of the draw."""
        return {"task.seed": self.seed}

    def questions(self) -> tuple[Question, ...]:
        """Return the questions that are asked."""
        return select(self.data.questions(), self.subjects, self.limit, self.seed)

    def num_shots(self) -> int:
        """Return the number of examples before each question.

        Raises:
            ConfigError: The data set has fewer.
        """
        data = self.data.questions()
        if self.shots is None:
            return data.default_shots
        if self.shots > data.max_shots:
            raise ConfigError(
                f"task.shots must be 0..{data.max_shots} with {data.name}, got {self.shots}; "
                "lower it, or give every subject so many solved examples (with data=questions: "
                "rows with split dev, or data.examples=FILE)"
            )
        return self.shots

    def data_facts(self) -> dict[str, Any]:
        """Return name and hashes of the questions and their examples."""
        data, questions, num_shots = self.data.questions(), self.questions(), self.num_shots()
        shown = [shot for question in questions for shot in data.shots(question, num_shots)]
        return {
            "name": data.name,
            "revision": data.revision,
            "questions_sha256": hash_questions(questions),
            "examples_sha256": hash_questions(tuple(dict.fromkeys(shown))),
            "num_questions": len(questions),
            "num_available": len(data.questions),
            "num_subjects": len({question.subject for question in questions}),
            "num_shots": num_shots,
        }

    def scored(self) -> Scored:
        """Return the questions that are asked."""
        return Scored(questions=self.questions())

    def run(self, loaded: LoadedModel) -> TaskResult:
        """Ask every question."""
        encoded = self._encoded(loaded)
        by_id, unshared = self._answers(loaded, encoded)
        samples = tuple(by_id[each.question.id] for each in encoded)
        return TaskResult(
            info=self._info(encoded),
            metrics=tuple(self.answer.metrics(samples)),
            samples=samples,
            warnings=(*self._warnings(encoded, samples), *_sharing_warnings(unshared)),
        )

    def _encoded(self, loaded: LoadedModel) -> list[EncodedQuestion]:
        """Return the prompts as token ids, made once a sweep."""
        facts = self.data_facts()
        key = ("prompts", facts["questions_sha256"], facts["examples_sha256"], facts["num_shots"])
        data = self.data.questions()
        return loaded.cached(key, lambda: encode(loaded, self.questions(), data, self.num_shots()))

    def _answers(
        self, loaded: LoadedModel, encoded: Sequence[EncodedQuestion]
    ) -> tuple[dict[str, SampleScore], str | None]:
        """Return the answers by question, and why prompts could not share a prefix, or None."""
        # The prompts of a subject begin with the same examples.
        by_subject: dict[str, list[EncodedQuestion]] = defaultdict(list)
        for each in encoded:
            by_subject[each.question.subject].append(each)
        budget = self.batch_tokens or BATCH_TOKENS[loaded.device.type]
        samples: dict[str, SampleScore] = {}
        with split(loaded) as model, bar(self.name, len(encoded)) as progress:
            reason = unsupported(model, max(len(each.ids) for each in encoded))
            for group in by_subject.values():
                sequences = [each.ids for each in group]
                for batch in prompt_batches(model, sequences, budget, share=reason is None):
                    asked = [group[index] for index in batch.indices]
                    for sample in self.answer.score(loaded, batch, asked):
                        samples[sample.id] = sample
                    progress.advance(
                        len(asked),
                        tokens=batch.num_tokens,
                        score=running_accuracy(samples.values()),
                    )
        return samples, reason

    def _info(self, encoded: Sequence[EncodedQuestion]) -> TaskInfo:
        drawn = "all" if self.limit is None else f"{self.limit}-by-seed-{self.seed}"
        subjects = "all" if self.subjects is None else ",".join(self.subjects)
        return TaskInfo(
            name=self.name,
            version=self.version,
            protocol=(
                f"{self.data.questions().name}|shots={self.num_shots()}|template=lm-eval-0.4.13"
                f"|{self.answer.protocol}|subjects={subjects}|questions={drawn}"
            ),
            data=self.data_facts()
            | {
                "num_prompt_tokens": sum(len(each.ids) for each in encoded),
                "token_ids_sha256": hash_token_ids([each.ids for each in encoded]),
            },
        )

    def _warnings(
        self, encoded: Sequence[EncodedQuestion], samples: Sequence[SampleScore]
    ) -> tuple[str, ...]:
        """Return warnings about the questions, their examples, and their answers in one order."""
        data, num_shots = self.data.questions(), self.num_shots()
        questions = [each.question for each in encoded]
        return (
            *data.warnings,
            *answer_warnings(questions, samples),
            *repeated_questions(questions),
            *_solved_warnings([(each, data.shots(each, num_shots)) for each in questions]),
            *_shot_warnings(encoded, num_shots),
        )


def _solved_warnings(asked: Sequence[tuple[Question, tuple[Question, ...]]]) -> tuple[str, ...]:
    """Warn of questions that stand solved among their own examples.

    They are asked all the same: lm-eval shows the same prompts, and the figure must be its figure.
    """
    own = own_examples(asked)
    if not own:
        return ()
    return (
        f"{len(own)} of {len(asked)} questions: the examples before it hold the question itself "
        f"with its answer, under another id: {', '.join(own)}; such scores are too good, in "
        "lm-eval too",
    )


def _shot_warnings(encoded: Sequence[EncodedQuestion], num_shots: int) -> tuple[str, ...]:
    short = {each.question.subject for each in encoded if each.num_shots < num_shots}
    return tuple(
        f"{subject}: fewer than {num_shots} examples before a question, the data set has no more"
        for subject in sorted(short)
    )


def _sharing_warnings(reason: str | None) -> tuple[str, ...]:
    if reason is None:
        return ()
    return (
        f"prompts of this model cannot share their beginning, because {reason}; "
        "every prompt was run whole, which is slower",
    )
