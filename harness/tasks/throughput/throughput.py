"""Task `throughput`: speed of prefill and decode, a recipe beside the unquantized model.

A request is B sequences of S prompt tokens, each continued greedily by G tokens. End-of-text tokens
are ignored, so that every request is the same work. Its times are TTFT, TPOT and inter-token
latencies (`harness.timing.request`).

    prefill [token/s] = B S / TTFT          decode [token/s] = B (G - 1) / (E2E - TTFT)

First, all subjects warm up until they are steady. Then rounds of one request each alternate between
the subjects (`harness.timing.rounds`). An unquantized 16-bit model on a CPU is two subjects, with
native and with float32 matmuls: which is faster depends on the processor.

Every time is on file: one sample for each phase and each inter-token latency. A metric is a median
over rounds. How to read the numbers, what makes them void, and how to measure on a GPU:
docs/throughput.md.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from harness.data.source import DataSource
from harness.engines.base import Baseline
from harness.engines.local import baselines
from harness.engines.local import cpu_matmul as products
from harness.engines.local.decodable import check_decoding
from harness.engines.local.engine import Become
from harness.engines.local.generation import CacheKind, Generation, forget_compiled
from harness.errors import check_bounds
from harness.machine import energy
from harness.machine.energy import Counter
from harness.machine.load import LoadWatch
from harness.machine.settings import settings, slowed_by
from harness.models.checkpoints.stored_bytes import stored_bytes
from harness.models.loaded import LoadedModel
from harness.models.tokens import hash_token_ids
from harness.results.record import TaskInfo
from harness.tasks.base import TaskResult
from harness.tasks.throughput import prompts as throughput_prompts
from harness.tasks.throughput.metrics import all_metrics, all_samples
from harness.tasks.throughput.roofline import streamed_bytes, utilizations
from harness.tasks.throughput.subject import (
    FLOAT,
    FLOAT32_MATMULS,
    LABELS,
    RECIPE,
    Requests,
    Size,
    Subject,
    differing_phases,
    make_request,
    observe_matmuls,
    with_float32_matmuls,
)
from harness.timing.clock import clock_of
from harness.timing.distribution import LEAST_ROUNDS, MOST_DRIFT, drift
from harness.timing.rounds import interleaved
from harness.timing.warm_up import TOLERANCE, warm_up

LEAST_TIMED_S = 10.0
"""Total time of a subject's rounds below which there is a warning [s]."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Throughput:
    """Speed of prefill and decode; see the module docstring."""

    name: ClassVar[str] = "throughput"
    version: ClassVar[int] = 1
    needs_trained_weights: ClassVar[bool] = False
    is_timed: ClassVar[bool] = True

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
    prompts: throughput_prompts.Kind = "random"
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

    def run(self, loaded: LoadedModel) -> TaskResult:
        """Measure.

        Raises:
            UnsupportedRecipe: The model came quantized, and `model.baseline` names no other model.
        """
        try:
            return self._measure(loaded)
        finally:
            if self.compile:  # torch keeps code for only a few shapes and models
                forget_compiled()

    def _measure(self, loaded: LoadedModel) -> TaskResult:
        base = baselines.find(loaded, self.name)
        prompts_BS = self._prompts(loaded, base)
        subjects = {subject.name: subject for subject in self._subjects(loaded, base, prompts_BS)}
        counter, no_energy = energy.find(loaded.device)
        requests, load_warnings = self._time(subjects, loaded.device, counter)
        # Utilization is that of the native way: bytes and peaks of the model's own type.
        judged = [subject for subject in subjects.values() if subject.name != FLOAT32_MATMULS]
        uses = utilizations(base.loaded, judged, requests)
        return TaskResult(
            info=self._info(prompts_BS, subjects[FLOAT].generation.attention),
            metrics=tuple(all_metrics(requests, subjects, uses, no_energy, self.seed)),
            samples=tuple(all_samples(requests)),
            baseline=base.info,
            # A model timed alone needs no warning that it is its own baseline: it has no ratio.
            warnings=(
                *(() if base.is_itself else base.warnings),
                *load_warnings,
                *_unsteady(requests, loaded.device),
            ),
        )

    def _prompts(self, loaded: LoadedModel, base: Baseline) -> Tensor:
        """Return token ids `[B, S]` that both models can decode from."""
        if self.prompts == "text":
            base.check_text(loaded, self.data.text(), self.prompt_tokens)
        prompts_BS = throughput_prompts.prompts_of(
            self.prompts, self.data, loaded, self.size, self.seed
        )
        length = prompts_BS.shape[1] + self.new_tokens if self.cache == "static" else None
        check_decoding(loaded, prompts_BS, length)
        return prompts_BS

    def _time(
        self, subjects: Mapping[str, Subject], device: torch.device, counter: Counter | None
    ) -> tuple[dict[str, Requests], list[str]]:
        """Warm up every subject, then time the rounds.

        Returns:
            The requests by name of the subject, and warnings about the load during the rounds.
        """
        clock = clock_of(device)
        ask = {
            name: partial(make_request, subject, self.new_tokens, clock, counter)
            for name, subject in subjects.items()
        }
        log.info("%s: warming up", self.name)
        warmed = {
            name: warm_up(lambda make=make: make().timing.total_s)  # type: ignore[misc]
            for name, make in ask.items()
        }
        log.info("%s: %d rounds of %s", self.name, self.rounds, " and ".join(ask))
        watch = LoadWatch(device)
        rounds = interleaved(ask, self.rounds, self.seed)
        warnings = watch.warnings()
        requests = {
            name: Requests(size=self.size, warm_up=warmed[name], rounds=tuple(made))
            for name, made in rounds.items()
        }
        return requests, warnings

    def _subjects(
        self, loaded: LoadedModel, base: Baseline, prompts_BS: Tensor
    ) -> Iterator[Subject]:
        """Yield the models to be timed, the unquantized one first."""
        native = self._subject(FLOAT, base.loaded, base.within, prompts_BS)
        yield native
        if "float32" in products.ways(base.loaded):
            widened = with_float32_matmuls(base.within)
            other = self._subject(FLOAT32_MATMULS, base.loaded, widened, prompts_BS)
            if differing_phases(native, other):
                yield other
        if not base.is_itself:
            yield self._subject(RECIPE, loaded, nullcontext, prompts_BS)

    def _subject(
        self, name: str, loaded: LoadedModel, within: Become, prompts_BS: Tensor
    ) -> Subject:
        make = partial(Generation, loaded, prompts_BS, cache=self.cache)
        with within():
            return Subject(
                name=name,
                within=within,
                generation=make(self.new_tokens, compiled=self.compile),
                weight_bytes=stored_bytes(loaded.module),
                streamed_bytes=streamed_bytes(loaded),
                matmuls=observe_matmuls(make(2)),
            )

    def _info(self, prompts_BS: Tensor, attention: str) -> TaskInfo:
        return TaskInfo(
            name=self.name,
            version=self.version,
            protocol=(
                f"B={self.batch_size}|S={self.prompt_tokens}|G={self.new_tokens}|cache={self.cache}"
                f"|compile={'yes' if self.compile else 'no'}|attention={attention}"
                f"|threads={torch.get_num_threads()}|prompts={self.prompts}|rounds={self.rounds}"
                "|greedy, ends ignored|ttft=from token ids|median over rounds"
            ),
            data=self.data_facts() | {"ids_sha256": hash_token_ids(prompts_BS.tolist())},
        )


def _unsteady(requests: Mapping[str, Requests], device: torch.device) -> Iterator[str]:
    """Yield warnings about times that are not steady, or too few."""
    yield from slowed_by(settings(device))
    for name, found in requests.items():
        if not found.warm_up.steady:
            yield (
                f"the {LABELS[name]} was not steady within {TOLERANCE:.0%} after "
                f"{len(found.warm_up.seconds)} warm-ups"
            )
    moved = drift(requests[FLOAT].total_s)
    if abs(moved) > MOST_DRIFT:
        yield (
            f"unstable: the time of the unquantized model changed by {moved:+.1%} between the "
            "first rounds and the last; repeat it on an idle machine"
        )
    seconds = min(sum(found.total_s) for found in requests.values())
    if seconds < LEAST_TIMED_S:
        yield (
            f"{seconds:.1f} s were timed, less than {LEAST_TIMED_S:.0f} s; "
            "raise task.rounds or task.new_tokens"
        )
