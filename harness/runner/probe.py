"""How long a run takes here, by running its task on a few samples for about ten seconds.

A time is taken to grow with the tokens that run. Samples share tokens, such as the examples of a
subject, so a few questions take longer apiece than thousands. `_Listener` hears what a task asks of
an engine without an answer, and a prefix tree counts the tokens that run.
"""

import logging
import math
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, NoReturn, TypeAlias

from harness.engines.base import Baseline, Engine, Made
from harness.engines.requests import Generate, Request, Score
from harness.engines.tree import num_tokens, prefix_tree
from harness.errors import ConfigError
from harness.messages import plural
from harness.plan.on_file import limit_key
from harness.plan.plan import Samples
from harness.recipe import quantize
from harness.runner import checks
from harness.runner.loading import loaded_model
from harness.runner.spec import RunSpec
from harness.tasks.base import Task
from harness.tasks.divergence import Divergence

log = logging.getLogger(__name__)

ENOUGH_S = 5.0
"""A run of this length says how fast the machine is; the search for it takes as long again [s]."""
UNITS = {"limit": "question", "limit_windows": "window", "limit_documents": "document"}
"""Option that limits the samples of a task -> what it counts."""
AtLimit: TypeAlias = Callable[[int | None], Task]
"""Returns a task with another limit."""
MOST_COUNTED = 800
"""Questions whose tokens are counted; more are taken to add tokens in proportion."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Probed:
    """Times of runs, from one run over a few samples."""

    before_s: float
    """Time to load and quantize the model [s]."""
    s_per_token: float
    num_items: int
    """Questions or scored tokens of the run that is planned."""
    num_tokens: float
    """Tokens that it runs."""
    tokens_per_item: float
    """Tokens that one more question or scored token runs."""
    source: str

    def is_near(self, num_items: int) -> bool:  # noqa: ARG002 - tokens are counted for all sizes
        """Return True: every time is an estimate."""
        return True

    def seconds_for(self, num_items: int) -> float:
        """Return the time of a run over so many questions or tokens [s]."""
        tokens = self.num_tokens + self.tokens_per_item * (num_items - self.num_items)
        return self.before_s + self.s_per_token * max(tokens, 0.0)


class _Asked(NamedTuple):
    """What a task asks of an engine."""

    num_requests: int
    num_tokens: int
    """Tokens that run."""
    num_scored: int
    """Tokens that are scored."""


class _Size(NamedTuple):
    """How large a run is, and other runs of its task."""

    samples: Samples
    num_tokens: float
    """Tokens that run."""
    tokens_per_item: float
    """Tokens that one more question or scored token runs."""
    most: int
    """Largest limit that may be probed."""


class _Heard(Exception):  # noqa: N818 - no error: it ends the task
    """What a task has asked."""

    def __init__(self, requests: Sequence[Request]) -> None:
        super().__init__()
        self.requests = requests


class _Listener(Engine):
    """An engine that answers nothing: it raises `_Heard` with the first requests of a task."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @property
    def name(self) -> str:
        return self._engine.name

    @property
    def tokenizer(self) -> Any:
        return self._engine.tokenizer

    @property
    def max_length(self) -> int | None:
        return self._engine.max_length

    def cached(self, key: Hashable, make: Callable[[], Made]) -> Made:
        return self._engine.cached(key, make)

    def baseline(self, task: str) -> Baseline:
        return self._engine.baseline(task)

    def answer(self, requests: Sequence[Request]) -> NoReturn:
        raise _Heard(requests)

    def compare(self, other: Engine, requests: Sequence[Score]) -> NoReturn:  # noqa: ARG002
        raise _Heard(requests)


def probe(spec: RunSpec, samples: Samples | None) -> tuple[Samples, Probed]:
    """Run the task of a run on a few samples.

    Args:
        spec: The run.
        samples: Its questions; None for a text, whose tokens are counted.

    Returns:
        The samples of the run, and how long runs take.

    Raises:
        HarnessError: The run cannot be made.
    """
    key = limit_key(spec.resolved)
    task = _text_alone(spec.task)
    if key is None or not isinstance(task, Task):
        raise ConfigError(
            f"task must be one with a limit to be planned, got {spec.task.name}; choose another"
        )

    def at(limit: int | None) -> Task:
        return replace(task, **{key: limit})  # type: ignore[type-var]

    log.info("no run of this size is on file; measuring for about 10 s how long it takes")
    began = time.perf_counter()
    with _started(spec, task) as engine:
        before_s = time.perf_counter() - began
        if samples is not None and key == "limit":
            found = _of_questions(at, engine, samples)
        else:
            found = _of_text(at, engine, getattr(task, key), is_windows=key == "limit_windows")
        limit, seconds = _timed(at, engine, found.most, once="compare" in task.asks)
        asked = _heard(at(limit), engine)
    unit = UNITS[key]
    return found.samples, Probed(
        before_s=before_s,
        s_per_token=seconds / asked.num_tokens,
        num_items=found.samples.num_items,
        num_tokens=found.num_tokens,
        tokens_per_item=found.tokens_per_item,
        source=f"measured now on {limit} {plural(unit, limit)}",
    )


def _text_alone(task: object) -> object:
    """Return a task without the questions that are compared beside its text."""
    return replace(task, questions=None) if isinstance(task, Divergence) else task


@contextmanager
def _started(spec: RunSpec, task: Task) -> Iterator[Engine]:
    """Context manager: the engine of a run, its model loaded and quantized."""
    if spec.model is None:
        checks.check_asked(task, spec.engine)
        with spec.engine.start(None, spec.device) as engine:
            yield engine
        return
    with loaded_model(spec, task) as (loaded, _):
        quantize(loaded, spec.recipe)
        with spec.engine.start(loaded, spec.device) as engine:
            yield engine


def _of_questions(at: AtLimit, engine: Engine, samples: Samples) -> _Size:
    """Return the size of a run over questions."""
    available = samples.available or samples.num_items
    most = min(available, MOST_COUNTED)
    half, whole = (_heard(at(num), engine).num_tokens for num in (max(most // 2, 1), most))
    # Half of the questions ask of nearly all subjects: the others add their own tokens only.
    more = (whole - half) / max(most - most // 2, 1)
    if samples.num_items <= most:
        tokens: float = _heard(at(samples.num_items), engine).num_tokens
    else:
        tokens = whole + more * (samples.num_items - most)
    return _Size(samples, tokens, more, available)


def _of_text(at: AtLimit, engine: Engine, limit: int | None, *, is_windows: bool) -> _Size:
    """Return the size of a run over windows or documents of a text."""
    one, everything = _heard(at(1), engine), _heard(at(None), engine)
    asked = everything if limit is None else _heard(at(limit), engine)
    samples = Samples(
        num_items=asked.num_scored,
        available=everything.num_scored,
        items_per_window=one.num_scored if is_windows else None,
    )
    # A document has a request at least, so there are no more documents than requests.
    most = everything.num_requests if is_windows else 1
    return _Size(samples, asked.num_tokens, asked.num_tokens / asked.num_scored, most)


def _timed(at: AtLimit, engine: Engine, most: int, *, once: bool) -> tuple[int, float]:
    """Return a limit, and how long a run of it takes [s]: the first one that takes long enough.

    Args:
        at: Returns the task with a limit.
        engine: Answers.
        most: Largest limit.
        once: Whether a second run would be faster, because the engine keeps what it has computed.
    """
    limit = 1
    while True:
        began = time.perf_counter()
        at(limit).run(engine)
        seconds = time.perf_counter() - began
        if once or seconds >= ENOUGH_S or limit >= most:
            return limit, seconds
        limit = min(most, math.ceil(limit * min(8.0, max(2.0, 1.2 * ENOUGH_S / seconds))))


def _heard(task: Task, engine: Engine) -> _Asked:
    """Return what a task asks of an engine, without an answer."""
    try:
        task.run(_Listener(engine))
    except _Heard as heard:
        requests = heard.requests
    else:
        raise AssertionError(f"{task.name} must ask its engine")
    generated = sum(each.max_new_tokens for each in requests if isinstance(each, Generate))
    return _Asked(
        num_requests=len(requests),
        num_tokens=num_tokens(prefix_tree(requests)) + generated,
        num_scored=sum(len(each.continuation) for each in requests if isinstance(each, Score)),
    )
