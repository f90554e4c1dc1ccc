"""Task `throughput`: speed of prefill and decode, a recipe beside the unquantized model.

A request is B sequences of S prompt tokens, each continued greedily by G tokens. End-of-text tokens
are ignored, so that every request is the same work. The engine stamps each request. The times of
prefill and decode, TTFT, TPOT and inter-token latencies follow from the stamps (`times`).

    prefill [token/s] = B S / prefill time          decode [token/s] = B (G - 1) / decode time

First, all subjects warm up until their times are steady. Then each round makes one request of every
subject (`harness.timing.rounds`). An unquantized 16-bit model on a CPU is two subjects, with native
and with float32 matmuls: which one is faster depends on the processor. An engine that cannot
compare times its model alone.

Every time is on file: one sample for each phase and each inter-token latency. A metric is a median
over rounds. How to read the numbers, what makes them void, and how to measure on a GPU:
docs/throughput.md.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple

import torch

from harness.data.source import DataSource
from harness.data.token_hash import hash_token_ids
from harness.engines.base import Baseline, Engine, Kind
from harness.engines.timed import CacheKind, Timed, TimedModel, Workload
from harness.errors import check_bounds
from harness.machine import energy
from harness.machine.energy import Counter
from harness.machine.load import LoadWatch
from harness.machine.settings import settings, slowed_by
from harness.results.record import TaskInfo
from harness.stats.rounds import MOST_DRIFT
from harness.tasks.base import TaskResult
from harness.tasks.divergence.compare import check_text
from harness.tasks.throughput import prompts as throughput_prompts
from harness.tasks.throughput.metrics import all_metrics, all_samples
from harness.tasks.throughput.prompts import Prompts
from harness.tasks.throughput.roofline import utilizations
from harness.tasks.throughput.subject import (
    FLOAT,
    FLOAT32_MATMULS,
    LABELS,
    MODEL,
    RECIPE,
    differing_phases,
    reference,
)
from harness.tasks.throughput.times import Size, SubjectTimes
from harness.timing.distribution import LEAST_ROUNDS, drift
from harness.timing.rounds import interleaved
from harness.timing.warm_up import TOLERANCE, warm_up

LEAST_TIMED_S = 10.0
"""Total time of a subject's rounds below which there is a warning [s]."""

MOST_OVERLAP = 0.02
"""Largest spread of a batch's first tokens without a warning, as a share of its decode time."""

log = logging.getLogger(__name__)


class Spent(NamedTuple):
    """Time and energy of one request."""

    timed: Timed
    energy_j: float | None
    """Energy of the device; None where there is no counter [J]."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Throughput:
    """Speed of prefill and decode; see the module docstring."""

    name: ClassVar[str] = "throughput"
    version: ClassVar[int] = 1
    needs_trained_weights: ClassVar[bool] = False
    is_timed: ClassVar[bool] = True
    asks: ClassVar[tuple[Kind, ...]] = ("time",)

    data: DataSource
    """Where prompts of kind `text` come from."""
    batch_size: int = 1
    """Sequences that run together."""
    prompt_tokens: int = 512
    """Tokens of each prompt."""
    new_tokens: int = 128
    """Tokens decoded after each prompt."""
    rounds: int = 10
    """Repetitions of every measurement."""
    cache: CacheKind = "static"
    """KV cache of a fixed size, or one that grows."""
    compile: bool = False
    """Run both phases through torch.compile; the time of compiling is a metric of its own."""
    prompts: throughput_prompts.PromptKind = "random"
    """Random token ids, or the text of `data`."""
    seed: int = 42
    """Seed of random prompts, of the order in rounds, and of the bootstrap."""

    def __post_init__(self) -> None:
        """Check the bounds of fields, and that only a static cache is compiled."""
        check_bounds(
            self,
            batch_size=1,
            prompt_tokens=1,
            new_tokens=2,  # the first belongs to prefill
            rounds=LEAST_ROUNDS,
            seed=0,
        )
        if self.compile and self.cache != "static":
            raise ValueError(f"cache must be static with compile=true, got {self.cache}")

    @property
    def seeds(self) -> dict[str, int]:
        """The seed of prompts, rounds and bootstrap."""
        return {"task.seed": self.seed}

    @property
    def size(self) -> Size:
        """The size of one request."""
        return Size(batch=self.batch_size, prompt=self.prompt_tokens, new=self.new_tokens)

    def data_facts(self) -> dict[str, Any]:
        """Return what identifies the prompts."""
        return throughput_prompts.facts(self.prompts, self.data, self.seed)

    def run(self, engine: Engine) -> TaskResult:
        """Time the model, beside its baseline if the engine can compare.

        Raises:
            UnsupportedRecipe: The model came quantized, and `model.baseline` names no other model.
            UnsupportedEngine: The engine cannot run the request as it is asked for.
        """
        # An engine that cannot compare times its model alone.
        base = engine.baseline(self.name) if engine.refuses("compare") is None else None
        prompts = self._prompts(engine, base)
        workload = Workload(
            prompts=prompts, new_tokens=self.new_tokens, cache=self.cache, compile=self.compile
        )
        with ExitStack() as models:
            subjects = dict(self._subjects(engine, base, workload, models))
            return self._measure(subjects, base, prompts)

    def _prompts(self, engine: Engine, base: Baseline | None) -> Prompts:
        """Return prompts that both models can be asked."""
        if base is not None and self.prompts == "text":
            check_text(engine, base.engine, self.data.text(), self.prompt_tokens)
        return throughput_prompts.prompts_of(self.prompts, self.data, engine, self.size, self.seed)

    def _subjects(
        self, engine: Engine, base: Baseline | None, workload: Workload, models: ExitStack
    ) -> Iterator[tuple[str, TimedModel]]:
        """Yield the models to be timed by name, the reference first; `models` closes them."""
        if base is None:
            yield MODEL, models.enter_context(engine.time(workload))
            return
        native = models.enter_context(base.engine.time(workload))
        yield FLOAT, native
        widened = native.with_float32_matmuls()
        if widened is not None and differing_phases(native, widened):
            yield FLOAT32_MATMULS, widened
        if not base.is_itself:
            yield RECIPE, models.enter_context(engine.time(workload))

    def _measure(
        self, subjects: Mapping[str, TimedModel], base: Baseline | None, prompts: Prompts
    ) -> TaskResult:
        first = subjects[reference(subjects)]
        device = torch.device(first.device)
        counter, no_energy = energy.find(device)
        times, load_warnings = self._time(subjects, device, counter)
        # Utilization is that of the native way: bytes and peaks of the model's own type.
        judged = {name: each for name, each in subjects.items() if name != FLOAT32_MATMULS}
        uses = utilizations(judged, times)
        return TaskResult(
            info=self._info(prompts, first.how),
            metrics=tuple(all_metrics(times, subjects, uses, no_energy, self.seed)),
            samples=tuple(all_samples(times)),
            baseline=None if base is None else base.info,
            warnings=(
                # A model timed alone needs no warning that it is its own baseline.
                *(() if base is None or base.is_itself else base.warnings),
                *load_warnings,
                *_unsteady(times, device),
            ),
        )

    def _time(
        self, subjects: Mapping[str, TimedModel], device: torch.device, counter: Counter | None
    ) -> tuple[dict[str, SubjectTimes], list[str]]:
        """Warm up every subject, then time the rounds.

        Returns:
            The times by name of the subject, and warnings about the load during the rounds.
        """
        log.info("%s: warming up", self.name)
        warmed = {
            name: warm_up(lambda subject=subject: subject.request().whole_s)  # type: ignore[misc]
            for name, subject in subjects.items()
        }
        log.info("%s: %d rounds of %s", self.name, self.rounds, " and ".join(subjects))
        watch = LoadWatch(device)
        ask = {name: partial(_spend, subject, counter) for name, subject in subjects.items()}
        rounds = interleaved(ask, self.rounds, self.seed)
        # Another process that runs the model would count as load by others.
        runs_here = all(subject.runs_here for subject in subjects.values())
        load_warnings = watch.warnings() if runs_here else []
        times = {
            name: SubjectTimes.of(
                self.size, warmed[name], [each.timed for each in spent], _total_energy(spent)
            )
            for name, spent in rounds.items()
        }
        return times, load_warnings

    def _info(self, prompts: Prompts, how: str) -> TaskInfo:
        return TaskInfo(
            name=self.name,
            version=self.version,
            protocol=(
                f"B={self.batch_size}|S={self.prompt_tokens}|G={self.new_tokens}|{how}"
                f"|prompts={self.prompts}|rounds={self.rounds}"
                "|greedy, ends ignored|ttft=from token ids|median over rounds"
            ),
            data=self.data_facts() | {"ids_sha256": hash_token_ids(prompts)},
        )


def _spend(subject: TimedModel, counter: Counter | None) -> Spent:
    """Make a request, and read the energy counter around it."""
    before = counter.read() if counter else 0.0
    timed = subject.request()
    return Spent(timed, counter.read() - before if counter else None)


def _total_energy(rounds: Sequence[Spent]) -> float | None:
    """Return the energy of all rounds [J], or None without a counter."""
    used = [each.energy_j for each in rounds if each.energy_j is not None]
    return sum(used) if used else None


def _unsteady(times: Mapping[str, SubjectTimes], device: torch.device) -> Iterator[str]:
    """Yield warnings about times that are not steady, phases that overlap, and too short runs."""
    yield from slowed_by(settings(device))
    for name, found in times.items():
        if not found.warm_up.steady:
            yield (
                f"the {LABELS[name]} was not steady within {TOLERANCE:.0%} after "
                f"{len(found.warm_up.seconds)} warm-ups"
            )
        if found.overlap > MOST_OVERLAP:
            yield (
                "the batch was not prefilled in one step: its first tokens lie apart by "
                f"{found.overlap:.0%} of the decode time"
            )
    if not all(found.rounds for found in times.values()):
        return
    name = reference(times)
    moved = drift(times[name].total_s)
    if abs(moved) > MOST_DRIFT:
        yield (
            f"unstable: the time of the {LABELS[name]} changed by {moved:+.1%} between the "
            "first rounds and the last; repeat it on an idle machine"
        )
    seconds = min(sum(found.total_s) for found in times.values())
    if seconds < LEAST_TIMED_S:
        yield (
            f"{seconds:.1f} s were timed, less than {LEAST_TIMED_S:.0f} s; "
            "raise task.rounds or task.new_tokens"
        )
