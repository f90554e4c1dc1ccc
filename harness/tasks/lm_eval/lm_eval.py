"""Tasks of lm-eval, run by lm-eval's own code on the model in memory, with its results in the ordinary record.

lm-eval (Gao et al., "A framework for few-shot language model evaluation") makes the prompts, batches and scores. What is
set here are the options whose defaults change what a quantized model scores:

- *Precision.* By default its log-softmax and its sums have the model's type: a bfloat16 window of 1024 tokens is off by up to
  0.016 nat a token, more than INT8 costs. Here logits (`engines/local/split_model.py`) and log-softmax are float32.
- *Special tokens.* Prompts begin as the tokenizer begins a text, and end where they end: what it appends (an EOS) is left off,
  which would stand between a prompt and its answer. A rolling text is encoded without BOS: lm-eval puts one before it as
  context, and a second one, being part of the text, would be scored.
- *Context length.* Perplexities depend on it, so it is always passed and part of the protocol.
- *Weights.* lm-eval calls `tie_weights()` on a model it is given, which could put the float embedding over a quantized head; here
  that call does nothing. It works on a copy of the tokenizer, since it may choose another padding token.
- *Caches.* Its cache of answers is keyed by the prompt alone and would give one recipe the answers of another; both caches are off.
- *Shared logits.* Requests with the same tokens up to the last share a forward pass; where they are split into prompt and
  continuation at different places, lm-eval 0.4.13 scores the shorter continuation at the wrong positions. Such requests do not
  share.
- *NaN.* lm-eval takes the first of four NaN for the likeliest answer. Here a logit or a log-probability that is not a number ends
  the run.

Its warnings, such as of prompts that were cut to the context length, become warnings of the record, with their number.
Chat templates and tasks that run generated code are not offered.
"""

import copy
import difflib
import hashlib
import inspect
import itertools
import json
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

from huggingface_hub.utils import logging

from harness import paths
from harness.engines.local.patch import patched
from harness.engines.local.split_model import split
from harness.errors import ConfigError, DataError, InvalidResult
from harness.models.loaded import LoadedModel
from harness.models.tokens import adds_bos, check_rows, without_suffix
from harness.results.record import TaskInfo
from harness.tasks.base import TaskResult
from harness.tasks.lm_eval import results as lm_eval_results
from harness.tasks.lm_eval.guards import one_process, quiet, seeded, watched

UNLIMITED = 2048
"""Longest sequence for a model without a limit, which is lm-eval's default [token]."""
BOOTSTRAPS = 1000
"""Resamples behind the standard errors that have no closed form; so many leave them uncertain by 2 %."""
UNAVAILABLE = (OSError, ValueError, KeyError, RuntimeError, ImportError)
"""What `datasets` and lm-eval raise for data or task files that they cannot read."""
ORIGIN_KEYS = ("dataset_path", "dataset_name", "dataset_kwargs", "metadata")
"""Where a task's data came from; what it was is hashed by itself."""

Loaded = Mapping[str, dict[str, Any]]
"""lm-eval's own form: `tasks` and `groups`, each by name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LMEval:
    """Some of lm-eval's tasks; see the module docstring."""

    name: ClassVar[str] = "lm_eval"
    version: ClassVar[int] = 1
    needs_trained_weights: ClassVar[bool] = True
    is_timed: ClassVar[bool] = False

    tasks: tuple[str, ...]
    """Names of tasks, groups or tags."""
    shots: int | None = None
    """Solved examples before each document; None is each task's own number."""
    limit: int | None = None
    """Take the first so many documents of each task; None is all."""
    batch_size: int = 1
    """Sequences a forward pass. The float32 logits of a whole batch are held at once."""
    max_length: int | None = None
    """Longest sequence [token]; None is the longest the model was made for, or 2,048 where it has no limit."""
    include_path: str | None = None
    """Folder with task YAML files of your own."""
    seed: int = 1234
    """Seed of everything lm-eval draws, few-shot examples above all; the default is lm-eval's own."""

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if not self.tasks or len(set(self.tasks)) < len(self.tasks):
            raise ValueError(f"tasks must name at least one task, each once, got {[*self.tasks]}")
        if self.shots is not None and self.shots < 0:
            raise ValueError(f"shots must be >= 0 or null, got {self.shots}")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit must be >= 1 or null, got {self.limit}")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be >= 1, got {self.batch_size}")
        if self.max_length is not None and self.max_length < 2:
            raise ValueError(f"max_length must be >= 2 tokens or null, got {self.max_length}")
        if self.include_path is not None and not paths.is_folder(Path(self.include_path)):
            raise ValueError(f"include_path must be a folder or null, got {self.include_path}")
        if not 0 <= self.seed < 2**32:  # numpy takes no other
            raise ValueError(f"seed must be 0..{2**32 - 1}, got {self.seed}")

    @property
    def seeds(self) -> dict[str, int]:
        """The seed of all that is drawn."""
        return {"task.seed": self.seed}

    def data_facts(self) -> dict[str, Any]:
        """Return versions and hashes of tasks and documents."""
        with seeded(self.seed), quiet():
            return self._facts(self._load())

    def run(self, loaded: LoadedModel) -> TaskResult:
        """Let lm-eval run its tasks."""
        length = self._length(loaded)
        with seeded(self.seed), quiet() as heard:
            found = self._load()
            facts = self._facts(found)
            model = _evaluator(loaded, self.batch_size, length)
            heard.clear()  # up to here lm-eval speaks of defaults in task files, and of the model being one in memory
            with split(loaded), watched(loaded), one_process():
                results = self._evaluate(model, found)
        items = [item for entries in results["samples"].values() for item in entries]
        hashes = (item[f"{kind}_hash"] for item in items for kind in ("doc", "prompt", "target"))
        return TaskResult(
            info=TaskInfo(
                name=self.name,
                version=self.version,
                protocol=self._protocol(loaded, length),
                data=facts | {"prompts_sha256": _sha256(hashes)},
            ),
            metrics=lm_eval_results.metrics(results, self.tasks),
            samples=lm_eval_results.samples(results["samples"]),
            warnings=(*self._warnings(found), *lm_eval_results.warnings(heard)),
        )

    def _protocol(self, loaded: LoadedModel, length: int) -> str:
        shots = "of-task" if self.shots is None else self.shots
        limit = "all" if self.limit is None else f"first-{self.limit}"
        return (
            f"lm-eval {version('lm_eval')}|tasks={','.join(self.tasks)}|shots={shots}|documents={limit}"
            f"|max_length={length}|batch={self.batch_size}|bos={'prompts' if adds_bos(loaded) else 'none'}"
            "|logits=fp32|softmax=fp32"
        )

    def _length(self, loaded: LoadedModel) -> int:
        if self.max_length is not None and not loaded.fits(self.max_length):
            raise ConfigError(
                f"task.max_length must be at most the {loaded.max_length} tokens {loaded.name} was made for, "
                f"got {self.max_length}"
            )
        return self.max_length or loaded.max_length or UNLIMITED

    def _load(self) -> Loaded:
        """Return the tasks with their data, ready to be asked.

        Raises:
            ConfigError: A name is unknown, or two of them hold the same task.
            DataError: A task's data cannot be had.
        """
        manager = _manager(self.tasks, self.include_path)
        for name in self.tasks:
            if name not in manager.task_index:
                close = ", ".join(difflib.get_close_matches(name, manager.all_tasks, n=5))
                hint = f"did you mean {close}?" if close else "`lm-eval ls tasks` lists them"
                raise ConfigError(
                    f"task.tasks must name tasks, groups or tags of lm-eval, got {name}; {hint}"
                )
        found: Loaded = {"tasks": {}, "groups": {}}
        for name in self.tasks:
            part = _load_one(manager, name)
            if twice := found["tasks"].keys() & part["tasks"].keys():
                raise ConfigError(
                    f"task.tasks must hold each task once, got {min(twice)} twice; leave {name} out"
                )
            for kind, items in found.items():
                items |= part[kind]
        for task in found["tasks"].values():
            own = task.get_config("num_fewshot")
            # lm-eval's own rule: a task that fixes 0 keeps it, and one without a number has none.
            shots = own or 0 if self.shots is None or own == 0 else self.shots
            task.set_config("num_fewshot", shots)
            task.set_fewshot_seed(self.seed)
        return found

    def _warnings(self, found: Loaded) -> list[str]:
        shots = {name: task.get_config("num_fewshot") for name, task in found["tasks"].items()}
        return [
            f"task.shots={self.shots} does not apply to {name}, whose file fixes {count}"
            for name, count in shots.items()
            if self.shots is not None and count != self.shots
        ]

    def _facts(self, found: Loaded) -> dict[str, Any]:
        tasks = dict(sorted(found["tasks"].items()))
        documents = {
            name: list(itertools.islice(task.eval_docs, self.limit)) for name, task in tasks.items()
        }
        shots = {name: task.get_config("num_fewshot") for name, task in tasks.items()}
        examples = [task.sampler.df for name, task in tasks.items() if shots[name]]
        return {
            "name": ", ".join(self.tasks),
            "lm_eval": version("lm_eval"),
            "versions": {name: task.VERSION for name, task in tasks.items()},
            "num_shots": shots,
            "num_documents": {name: len(docs) for name, docs in documents.items()},
            "documents_sha256": _sha256(_spell(doc) for docs in documents.values() for doc in docs),
            "examples_sha256": _sha256(_spell(doc) for docs in examples for doc in docs),
            "tasks_sha256": _sha256(_spell(_definition(task)) for task in tasks.values()),
        } | self._own_code()

    def _own_code(self) -> dict[str, str]:
        """Return the hash of the Python files in `include_path`: what a task's functions call may change while they do not."""
        files = sorted(Path(self.include_path).rglob("*.py")) if self.include_path else []
        code = (file.read_text(encoding="utf-8", errors="replace") for file in files)
        return {"code_sha256": _sha256(code)} if files else {}

    def _evaluate(self, model: Any, found: Loaded) -> dict[str, Any]:
        """Return lm-eval's results.

        Raises:
            ConfigError: lm-eval refuses the tasks with these options.
            InvalidResult: A perplexity is too large for a number.
        """
        from lm_eval.evaluator import evaluate  # noqa: PLC0415 - takes a second

        try:
            results: dict[str, Any] = evaluate(
                lm=model,
                task_dict=found,
                limit=self.limit,
                bootstrap_iters=BOOTSTRAPS,
                cache_requests=False,
                log_samples=True,
            )
        except (AssertionError, ValueError) as reason:
            raise ConfigError(
                f"lm-eval must be able to run {', '.join(self.tasks)} with these options, got "
                f"{type(reason).__name__}: {reason}; change task.shots, task.max_length or task.tasks"
            ) from reason
        except OverflowError as reason:
            raise InvalidResult(
                f"every perplexity must be a finite number, got {reason}; the recipe destroys this model, "
                "or the weights are damaged"
            ) from reason
        return results


def _manager(names: tuple[str, ...], include_path: str | None) -> Any:
    """Return lm-eval's index of tasks; that of a folder alone if all that is asked for lies there."""
    from lm_eval.tasks import TaskManager  # noqa: PLC0415 - takes a second

    if include_path is not None:
        own = TaskManager(include_path=include_path, include_defaults=False)
        groups = (entry.cfg or {} for entry in own.task_index.values())
        members = (part for group in groups if isinstance(part := group.get("task"), list))
        inner = (item if isinstance(item, str) else item.get("task") for m in members for item in m)
        if {*names, *inner} <= own.task_index.keys():
            return own
    return _all_tasks(include_path)


@lru_cache(maxsize=1)
def _all_tasks(include_path: str | None) -> Any:
    """Return the index of lm-eval's own tasks, with a folder's: 14,000 files, read in 10 s, once a sweep."""
    from lm_eval.tasks import TaskManager  # noqa: PLC0415 - takes a second

    return TaskManager(include_path=include_path)


def _load_one(manager: Any, name: str) -> Loaded:
    from datasets.exceptions import (  # type: ignore[import-untyped] # noqa: PLC0415 - takes a second
        DatasetsError,
    )

    if "HF_HUB_VERBOSITY" not in os.environ:  # it says of each attempt, twice, what the error says
        logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        part: Loaded = manager.load([name])
    except (*UNAVAILABLE, DatasetsError) as reason:
        raise DataError(
            f"the data of lm-eval's task {name} must be at hand, got {type(reason).__name__}: {reason}; connect to "
            "the hub once, so that its cache is filled, or give task.include_path=FOLDER with a task file "
            "that reads local data"
        ) from reason
    return part


def _evaluator(loaded: LoadedModel, batch_size: int, length: int) -> Any:
    """Return the model as lm-eval sees it."""
    from lm_eval.models.huggingface import HFLM  # noqa: PLC0415 - takes a second

    with patched(loaded.module, "tie_weights", lambda *_, **__: None):
        model = HFLM(
            pretrained=loaded.module,
            tokenizer=loaded.cached(
                "lm-eval's tokenizer", lambda: without_suffix(copy.deepcopy(loaded.tokenizer))
            ),
            backend="causal",
            batch_size=batch_size,
            max_length=length,
            softmax_dtype="float32",
        )
    rolling, scored = model.loglikelihood_rolling, model._loglikelihood_tokens  # noqa: SLF001
    batch_encode = model.tok_batch_encode

    def without_bos(*args: Any, **options: Any) -> Any:
        model.add_bos_token = False
        try:
            return rolling(*args, **options)
        finally:
            model.add_bos_token = None

    def alone(requests: Any, *args: Any, **options: Any) -> Any:
        ends: dict[tuple[int, ...], set[int]] = defaultdict(set)
        for _, context, continuation in requests:
            check_rows((*context, *continuation), loaded)
            ends[(*context, *continuation[:-1])].add(len(continuation))
        model.logits_cache = all(len(lengths) == 1 for lengths in ends.values())
        return scored(requests, *args, **options)

    def checked(*args: Any, **options: Any) -> Any:
        ids, mask = batch_encode(*args, **options)
        check_rows(ids, loaded)
        return ids, mask

    model.tok_batch_encode = checked
    model.loglikelihood_rolling, model._loglikelihood_tokens = without_bos, alone  # noqa: SLF001
    return model


def _definition(task: Any) -> dict[str, Any]:
    """Return what a task file says, functions as their source, without where its data lies."""
    config: dict[str, Any] = task.dump_config()
    return {key: value for key, value in config.items() if key not in ORIGIN_KEYS}


def _spell(value: Any) -> str:
    def source(part: Any) -> str:
        try:
            return inspect.getsource(part)
        except (TypeError, OSError):
            return str(part)

    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=source)
    return re.sub(r" at 0x[0-9a-f]+", "", text)  # addresses change from process to process


def _sha256(texts: Iterable[str]) -> str:
    """Return the SHA-256 over texts, each with its end marked."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode() + b"\0")
    return digest.hexdigest()
