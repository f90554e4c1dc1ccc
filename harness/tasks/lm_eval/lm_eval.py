"""The task: load lm-eval's tasks, let lm-eval ask the engine, and return the results."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

from harness import paths
from harness.engines.base import Engine, Kind
from harness.errors import ConfigError, check_bounds
from harness.results.record import TaskInfo
from harness.tasks.base import TaskResult
from harness.tasks.chat import Chat
from harness.tasks.lm_eval import results as lm_eval_results
from harness.tasks.lm_eval.evaluator import evaluate
from harness.tasks.lm_eval.facts import sha256_of, task_facts
from harness.tasks.lm_eval.guards import one_process, quiet, seeded
from harness.tasks.lm_eval.loading import LMEvalTasks, load_tasks

UNLIMITED = 2048
"""Longest sequence for a model without a limit: lm-eval's default [token]."""
SEEDS = 2**32
"""Number of seeds that numpy takes, from 0."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LMEval:
    """Some of lm-eval's tasks."""

    name: ClassVar[str] = "lm_eval"
    version: ClassVar[int] = 2
    needs_trained_weights: ClassVar[bool] = True
    is_timed: ClassVar[bool] = False
    asks: ClassVar[tuple[Kind, ...]] = ()
    """Empty: what an engine is asked depends on lm-eval's tasks. The client (`EngineLM`) raises
    UnsupportedEngine if the engine refuses it."""

    tasks: tuple[str, ...]
    """Names of tasks, groups or tags."""
    shots: int | None = None
    """Solved examples before each document; None is each task's own number."""
    limit: int | None = None
    """Number of documents of each task, from the first; None is all."""
    batch_size: int = 1
    """Has no effect: the engine packs sequences itself. Commands of earlier versions have it."""
    max_length: int | None = None
    """Longest sequence; None is the longest the model was made for, or 2,048 for a model without
    a limit [token]."""
    include_path: str | None = None
    """Folder with task YAML files of your own."""
    seed: int = 1234
    """Seed of everything lm-eval draws, as `--seed` of lm-eval sets it. For few-shot examples the
    default is lm-eval's own. Python's `random` has the seed 0 there by default; a few tasks, such
    as gpqa, order their choices by it."""
    chat_template: bool = False
    """Write prompts with the chat template of the tokenizer."""
    system: str | None = None
    """System prompt, before the description of a task; None is none."""
    fewshot_as_turns: bool = False
    """With a chat template: show solved examples as turns of the conversation."""

    def __post_init__(self) -> None:
        """Check names, bounds and the folder."""
        if not self.tasks or len(set(self.tasks)) < len(self.tasks):
            raise ValueError(f"tasks must name at least one task, each once, got {[*self.tasks]}")
        # A window of one token has nothing before it that could predict it.
        check_bounds(self, shots=0, limit=1, batch_size=1, max_length=2)
        if self.include_path is not None and not paths.is_folder(Path(self.include_path)):
            raise ValueError(f"include_path must be a folder or null, got {self.include_path}")
        if not 0 <= self.seed < SEEDS:
            raise ValueError(f"seed must be 0..{SEEDS - 1}, got {self.seed}")
        self.chat.check_options()

    @property
    def chat(self) -> Chat:
        """Whether and how prompts are conversations."""
        return Chat(template=self.chat_template, system=self.system, as_turns=self.fewshot_as_turns)

    @property
    def seeds(self) -> dict[str, int]:
        """The seed of all draws."""
        return {"task.seed": self.seed}

    def data_facts(self) -> dict[str, Any]:
        """Return versions and hashes of tasks and documents."""
        with seeded(self.seed), quiet():
            return self._facts(self._load())

    def run(self, engine: Engine) -> TaskResult:
        """Let lm-eval run its tasks.

        Raises:
            UnsupportedEngine: The engine refuses what a task asks, such as sampling.
            ConfigError: lm-eval cannot run the tasks with these options.
            DataError: A task's data is not available.
            InvalidResult: A score is not finite.
        """
        # lm-eval takes seconds to import.
        from harness.engines.lm_eval import EngineLM  # noqa: PLC0415

        model = EngineLM(engine, self._length(engine))
        self.chat.check(engine)
        with seeded(self.seed), quiet() as heard:
            found = self._load()
            facts = self._facts(found)
            # Until here lm-eval warns of defaults in task files.
            heard.clear()
            with one_process():
                results = evaluate(model, found, self.tasks, self.limit, self.chat)
        return TaskResult(
            info=TaskInfo(
                name=self.name,
                version=self.version,
                protocol=self._protocol(engine, model.max_length),
                data=facts | {"prompts_sha256": _prompts_sha256(results)},
            ),
            metrics=lm_eval_results.metrics(results, self.tasks),
            samples=lm_eval_results.samples(results["samples"]),
            warnings=(
                *self._warnings(found),
                *_cut_warnings(model.num_cut, model.max_length),
                *self.chat.warnings(engine, _descriptions(found)),
                *lm_eval_results.warnings(heard),
            ),
        )

    def _load(self) -> LMEvalTasks:
        return load_tasks(self.tasks, self.include_path, self.shots, self.seed)

    def _facts(self, found: LMEvalTasks) -> dict[str, Any]:
        return task_facts(found, self.tasks, self.limit, self.include_path)

    def _length(self, engine: Engine) -> int:
        """Return the longest sequence [token].

        Raises:
            ConfigError: `max_length` is longer than the model was made for.
        """
        if self.max_length is not None and not engine.fits(self.max_length):
            raise ConfigError(
                f"task.max_length must be at most the {engine.max_length} tokens {engine.name} "
                f"was made for, got {self.max_length}"
            )
        return self.max_length or engine.max_length or UNLIMITED

    def _protocol(self, engine: Engine, length: int) -> str:
        shots = "of-task" if self.shots is None else self.shots
        limit = "all" if self.limit is None else f"first-{self.limit}"
        return (
            f"lm-eval {version('lm_eval')}|tasks={','.join(self.tasks)}|shots={shots}"
            f"|documents={limit}|max_length={length}{self.chat.protocol(engine)}"
            f"|bos={'prompts' if engine.tokenizer.adds_bos else 'none'}|logits=fp32|softmax=fp64"
        )

    def _warnings(self, found: LMEvalTasks) -> list[str]:
        """Warn of tasks whose files fix a number of examples."""
        shots = {name: task.get_config("num_fewshot") for name, task in found["tasks"].items()}
        return [
            f"task.shots={self.shots} does not apply to {name}, whose file fixes {count}"
            for name, count in shots.items()
            if self.shots is not None and count != self.shots
        ]


def _descriptions(found: LMEvalTasks) -> int:
    """Return the number of tasks with a description."""
    return sum(bool(task.get_config("description")) for task in found["tasks"].values())


def _cut_warnings(num_cut: int, length: int) -> tuple[str, ...]:
    if not num_cut:
        return ()
    return (f"lm-eval: {num_cut} prompts lost their first tokens, to fit into {length}",)


def _prompts_sha256(results: Mapping[str, Any]) -> str:
    """Return the hash of all documents, prompts and targets, in the order of the samples."""
    samples = [sample for each in results["samples"].values() for sample in each]
    kinds = ("doc", "prompt", "target")
    return sha256_of(sample[f"{kind}_hash"] for sample in samples for kind in kinds)
