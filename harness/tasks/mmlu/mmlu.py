"""The task: choose questions, ask an engine about their prompts, and let rules take the answers.

Hendrycks et al., "Measuring Massive Multitask Language Understanding" (2021). A rule is `direct`,
`generate`, `cloze`, or another `AnswerRule`.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Literal, NamedTuple

from harness.data.overlap import Scored, own_examples
from harness.data.source import DataSource, Question, hash_questions, repeated_questions
from harness.data.token_hash import hash_token_ids
from harness.display.progress import bar
from harness.engines.base import Engine, Kind
from harness.engines.requests import Answer, Request, num_run
from harness.errors import ConfigError, DataError, check_bounds
from harness.results.parts import PARTS
from harness.results.record import Metric, SampleScore, TaskInfo
from harness.tasks.base import TaskResult
from harness.tasks.chat import Chat
from harness.tasks.degenerate import answer_warnings
from harness.tasks.mmlu.accuracy import running_accuracy
from harness.tasks.mmlu.answer_rule import AnswerRule
from harness.tasks.mmlu.direct import Direct
from harness.tasks.mmlu.generate import Generate
from harness.tasks.mmlu.prompt import EncodedQuestion, encode
from harness.tasks.mmlu.questions import select

RULES: Mapping[str, AnswerRule] = MappingProxyType({"direct": Direct(), "generate": Generate()})
"""Names of `answers` -> rules. All have the same prompts."""


class Owner(NamedTuple):
    """What a request is for."""

    rule: int
    """Index of the rule."""
    question: int
    """Index of the question."""


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
    answers: tuple[Literal["direct", "generate"], ...] | None = None
    """Rules that take the answers in one run, which shares the prompts; None is `answer` alone."""
    chat_template: bool = False
    """Write prompts with the chat template of the tokenizer."""
    system: str | None = None
    """System prompt, before the description of the subject; None is none."""
    fewshot_as_turns: bool = False
    """With a chat template: show solved examples as turns of the conversation."""

    def __post_init__(self) -> None:
        """Check bounds, and that there is a subject."""
        check_bounds(self, shots=0, limit=1)
        if self.answers is not None and sorted(set(self.answers)) != sorted(self.answers):
            raise ValueError(f"answers must name each rule once, got {[*self.answers]}")
        if self.answers is not None and not self.answers:
            raise ValueError("answers must name at least one rule or be null, got []")
        if self.answers and any(rule.template != self.answer.template for rule in self.rules):
            raise ValueError(
                f"answers must be null with the rule {type(self.answer).__name__}, whose prompts "
                f"are other ones, got {[*(self.answers or ())]}"
            )
        if self.subjects is not None and not self.subjects:
            raise ValueError("subjects must name at least one subject or be null, got []")
        self.chat.check_options()

    @property
    def chat(self) -> Chat:
        """Whether and how prompts are conversations."""
        return Chat(template=self.chat_template, system=self.system, as_turns=self.fewshot_as_turns)

    @property
    def rules(self) -> tuple[AnswerRule, ...]:
        """The rules that take the answers."""
        if self.answers is None:
            return (self.answer,)
        return tuple(RULES[name] for name in self.answers)

    @property
    def name(self) -> str:
        """Name of the rule's task, such as `mmlu`; `mmlu_direct_generate` for two rules."""
        if len(self.rules) == 1:
            return self.rules[0].task_name
        return "mmlu_" + "_".join(sorted(self.answers or ()))

    @property
    def version(self) -> int:
        """Version of the rule, 1 for a rule without one; of two rules the higher one."""
        return max(getattr(rule, "version", 1) for rule in self.rules)

    @property
    def asks(self) -> tuple[Kind, ...]:
        """What the rules ask of an engine."""
        return tuple(rule.asks for rule in self.rules)

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

    def run(self, engine: Engine) -> TaskResult:
        """Ask every question.

        Raises:
            ConfigError: The chat template does not fit the options.
            DataError: A prompt is longer than the model was made for.
            InvalidResult: A score is not finite.
        """
        self.chat.check(engine)
        encoded = self._encoded(engine)
        by_rule = self._answers(engine, encoded)
        alone = len(self.rules) == 1
        metrics: list[Metric] = []
        samples: list[SampleScore] = []
        for name, rule, own in zip(self.answers or ("",), self.rules, by_rule, strict=True):
            prefix = "" if alone else f"{name}/"
            metrics += [_renamed(metric, prefix) for metric in rule.metrics(own)]
            samples += [sample.model_copy(update={"id": prefix + sample.id}) for sample in own]
        return TaskResult(
            info=self._info(engine, encoded),
            metrics=tuple(metrics),
            samples=tuple(samples),
            warnings=(*self._warnings(encoded, by_rule), *self.chat.warnings(engine, 1)),
        )

    def _encoded(self, engine: Engine) -> list[EncodedQuestion]:
        """Return the prompts as token ids; a sweep makes them once."""
        facts = self.data_facts()
        hashes = (facts["questions_sha256"], facts["examples_sha256"])
        data, num_shots = self.data.questions(), facts["num_shots"]
        key = ("prompts", *hashes, num_shots, self.chat, self.answer.template)
        return engine.tokenizer.cached(
            key,
            lambda: encode(
                engine, self.questions(), data, num_shots, self.chat, self.answer.template
            ),
        )

    def _answers(
        self, engine: Engine, encoded: Sequence[EncodedQuestion]
    ) -> list[list[SampleScore]]:
        """Return the answers of each rule, in the order of the questions."""
        requests, owners = self._requests(engine, encoded)
        missing = Counter(owners)
        answers: dict[Owner, dict[int, Answer]] = defaultdict(dict)
        found: list[dict[int, SampleScore]] = [{} for _ in self.rules]
        with bar(self.name, len(encoded) * len(self.rules)) as progress:
            for index, answer in engine.answer(requests):
                owner = owners[index]
                answers[owner][index] = answer
                missing[owner] -= 1
                if missing[owner]:
                    continue
                place, number = owner
                # In the order of the requests: engines answer in an order of their own.
                ordered = [each for _, each in sorted(answers.pop(owner).items())]
                asked = encoded[number]
                found[place][number] = self.rules[place].sample(engine, asked, ordered)
                score = running_accuracy(found[place].values())
                progress.advance(tokens=len(asked.ids), score=score)
        return [[of_rule[number] for number in range(len(encoded))] for of_rule in found]

    def _requests(
        self, engine: Engine, encoded: Sequence[EncodedQuestion]
    ) -> tuple[list[Request], list[Owner]]:
        """Return the requests of all rules, and rule and question of each."""
        by_rule = [rule.requests(engine, encoded, self.chat) for rule in self.rules]
        requests: list[Request] = []
        owners: list[Owner] = []
        for number in range(len(encoded)):
            for place, of_rule in enumerate(by_rule):
                requests += of_rule[number]
                owners += [Owner(place, number)] * len(of_rule[number])
        self._check_room(engine, encoded, requests, owners)
        return requests, owners

    def _check_room(
        self,
        engine: Engine,
        encoded: Sequence[EncodedQuestion],
        requests: Sequence[Request],
        owners: Sequence[Owner],
    ) -> None:
        """Check that there is room for answers behind the prompts.

        Raises:
            DataError: There is none for some.
        """
        sizes = [num_run(request) for request in requests]
        if engine.fits(max(sizes)):
            return
        longest = encoded[owners[sizes.index(max(sizes))].question].question.id
        count = len({o.question for o, n in zip(owners, sizes, strict=True) if not engine.fits(n)})
        raise DataError(
            f"every prompt with its answer must be at most the {engine.max_length} tokens "
            f"{engine.name} was made for, got {count} longer ones, the longest {longest} with "
            f"{max(sizes)}; lower task.shots or choose task.subjects"
        )

    def _info(self, engine: Engine, encoded: Sequence[EncodedQuestion]) -> TaskInfo:
        parts = {} if len(self.rules) == 1 else {PARTS: self._parts(engine)}
        return TaskInfo(
            name=self.name,
            version=self.version,
            protocol=self._protocol(engine, *self.rules),
            data=self.data_facts()
            | {
                "num_prompt_tokens": sum(len(each.ids) for each in encoded),
                "token_ids_sha256": hash_token_ids([each.ids for each in encoded]),
            }
            | parts,
        )

    def _protocol(self, engine: Engine, *rules: AnswerRule) -> str:
        drawn = "all" if self.limit is None else f"{self.limit}-by-seed-{self.seed}"
        subjects = "all" if self.subjects is None else ",".join(self.subjects)
        return (
            f"{self.data.questions().name}|shots={self.num_shots()}"
            f"|template={self.answer.template.name}"
            f"{self.chat.protocol(engine)}|{'|'.join(rule.protocol for rule in rules)}"
            f"|subjects={subjects}|questions={drawn}"
        )

    def _parts(self, engine: Engine) -> dict[str, Any]:
        """Return the task of each rule alone; see `harness.results.parts`."""
        return {
            name: {
                "name": rule.task_name,
                "version": getattr(rule, "version", 1),
                "protocol": self._protocol(engine, rule),
                "config": {
                    "answers": None,
                    "answer": {"_target_": f"harness.tasks.mmlu.{type(rule).__name__}"},
                },
            }
            for name, rule in zip(self.answers or (), self.rules, strict=True)
        }

    def _warnings(
        self, encoded: Sequence[EncodedQuestion], by_rule: Sequence[Sequence[SampleScore]]
    ) -> tuple[str, ...]:
        """Return warnings about the questions, their examples, and their answers in one order."""
        data, num_shots = self.data.questions(), self.num_shots()
        questions = [each.question for each in encoded]
        return (
            *data.warnings,
            *dict.fromkeys(
                warning for own in by_rule for warning in answer_warnings(questions, own)
            ),
            *repeated_questions(questions),
            *_solved_warnings([(each, data.shots(each, num_shots)) for each in questions]),
            *_shot_warnings(encoded, num_shots),
        )


def _solved_warnings(asked: Sequence[tuple[Question, tuple[Question, ...]]]) -> tuple[str, ...]:
    """Warn of questions that are also among their own solved examples.

    They are asked all the same: lm-eval shows the same prompts, and the accuracies must be equal.
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


def _renamed(metric: Metric, prefix: str) -> Metric:
    return metric.model_copy(update={"name": prefix + metric.name})
