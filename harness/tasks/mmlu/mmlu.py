"""MMLU: four-choice questions of 57 subjects, each after solved examples of its subject.

Hendrycks et al., "Measuring Massive Multitask Language Understanding" (2021). The task chooses questions and runs
prompts; how an answer is taken from the model is the part that can be swapped: by the probability of the letters
(`mmlu_direct`) or by decoding (`mmlu_generate`).
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

from harness.data.overlap import Scored, own_examples
from harness.data.source import DataSource, Question, hash_questions, repeated_questions
from harness.display.progress import bar
from harness.engines.local.prefix_batches import PromptBatch, batches
from harness.engines.local.prefix_support import obstacle
from harness.engines.local.split_model import split
from harness.errors import ConfigError
from harness.models.loaded import LoadedModel
from harness.results.record import Metric, SampleScore, TaskInfo
from harness.tasks.base import BATCH_TOKENS, TaskResult, hash_token_ids
from harness.tasks.degenerate import answer_warnings
from harness.tasks.mmlu.accuracy import running_accuracy
from harness.tasks.mmlu.prompt import EncodedQuestion, encode, select


@runtime_checkable
class AnswerRule(Protocol):
    """How an answer is taken from a model. A change of the rule that moves a number gives it a higher `version`."""

    @property
    def task_name(self) -> str:
        """Name of the task with this rule."""

    @property
    def protocol(self) -> str:
        """The rule in a few words, for the protocol line."""

    def score(
        self, loaded: LoadedModel, batch: PromptBatch, items: Sequence[EncodedQuestion]
    ) -> list[SampleScore]:
        """Answer the questions of a batch, in the order of its rows."""

    def metrics(self, samples: Sequence[SampleScore]) -> list[Metric]:
        """Sum up; `accuracy` comes first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MMLU:
    """MMLU with a rule that takes the answers; see the module docstring."""

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
    """Tokens a batch, without the shared prefix; None is the device's own number."""

    def __post_init__(self) -> None:
        """Refuse selections that cannot be meant."""
        if self.shots is not None and self.shots < 0:
            raise ValueError(f"shots must be >= 0 or null, got {self.shots}")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit must be >= 1 or null, got {self.limit}")
        if self.subjects is not None and not self.subjects:
            raise ValueError("subjects must name at least one subject or be null, got []")
        if self.batch_tokens is not None and self.batch_tokens < 1:
            raise ValueError(f"batch_tokens must be >= 1 or null, got {self.batch_tokens}")

    @property
    def name(self) -> str:
        """`mmlu` or `mmlu_generate`."""
        return self.answer.task_name

    @property
    def version(self) -> int:
        """That of the rule; 1 for a rule that says none."""
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
            ConfigError: The data set does not have so many.
        """
        data = self.data.questions()
        if self.shots is None:
            return data.default_shots
        if self.shots > data.max_shots:
            raise ConfigError(
                f"task.shots must be 0..{data.max_shots} with {data.name}, got {self.shots}; lower it, or give every "
                "subject so many solved examples (with data=questions: rows with split dev, or data.examples=FILE)"
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
        """Ask every question; those of a subject run together, because their prompts begin alike."""
        encoded = self._encoded(loaded)
        by_subject: dict[str, list[EncodedQuestion]] = defaultdict(list)
        for item in encoded:
            by_subject[item.question.subject].append(item)
        samples: dict[str, SampleScore] = {}
        budget = self.batch_tokens or BATCH_TOKENS[loaded.device.type]
        with split(loaded) as halves, bar(self.name, len(encoded)) as progress:
            reason = obstacle(halves, max(len(item.ids) for item in encoded))
            for group in by_subject.values():
                sequences = [item.ids for item in group]
                for batch in batches(halves, sequences, budget, share=reason is None):
                    items = [group[index] for index in batch.indices]
                    for sample in self.answer.score(loaded, batch, items):
                        samples[sample.id] = sample
                    progress.advance(
                        len(items),
                        tokens=batch.num_tokens,
                        score=running_accuracy(samples.values()),
                    )
        ordered = tuple(samples[item.question.id] for item in encoded)
        return TaskResult(
            info=self._info(encoded),
            metrics=tuple(self.answer.metrics(ordered)),
            samples=ordered,
            warnings=(
                *self._warnings(encoded, ordered),
                *_sharing_warnings(reason),
            ),
        )

    def _encoded(self, loaded: LoadedModel) -> list[EncodedQuestion]:
        """Return the prompts as token ids, made once a sweep."""
        facts = self.data_facts()
        key = ("prompts", facts["questions_sha256"], facts["examples_sha256"], facts["num_shots"])
        data = self.data.questions()
        return loaded.cached(key, lambda: encode(loaded, self.questions(), data, self.num_shots()))

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
                "num_prompt_tokens": sum(len(item.ids) for item in encoded),
                "token_ids_sha256": hash_token_ids([item.ids for item in encoded]),
            },
        )

    def _warnings(
        self, encoded: Sequence[EncodedQuestion], samples: Sequence[SampleScore]
    ) -> tuple[str, ...]:
        """Return what to know of the questions, of their examples, and of the answers to them in the same order."""
        data, asked = self.data.questions(), self.num_shots()
        questions = [item.question for item in encoded]
        own = own_examples([(question, data.shots(question, asked)) for question in questions])
        # They are asked all the same: lm-eval shows the same prompts, and a figure must be its figure.
        solved = [
            f"{len(own)} of {len(encoded)} questions: the examples before it hold the question itself with its answer, under another id: "
            f"{', '.join(own)}; such scores are too good, in lm-eval too"
        ]
        return (
            *data.warnings,
            *answer_warnings(questions, samples),
            *repeated_questions(questions),
            *(solved if own else []),
            *_short_of_examples(encoded, asked),
        )


def _short_of_examples(encoded: Sequence[EncodedQuestion], asked: int) -> tuple[str, ...]:
    short = {item.question.subject for item in encoded if item.num_shots < asked}
    return tuple(
        f"{subject}: fewer than {asked} examples before a question, the data set has no more"
        for subject in sorted(short)
    )


def _sharing_warnings(reason: str | None) -> tuple[str, ...]:
    if reason is None:
        return ()
    return (
        f"prompts of this model cannot share their beginning, because {reason}; every prompt was run whole, "
        "which is slower",
    )
