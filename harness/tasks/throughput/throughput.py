"""How fast a model is: prefill and decode, timed apart, a quantized model beside the float one in the same process.

A request is B sequences of S prompt tokens, continued greedily by G tokens each, whatever they say: ends of text are ignored, so
every request is the same work. Its times are TTFT, TPOT and the gaps between tokens (`harness.timing.request`).

    prefill [token/s] = B S / TTFT          decode [token/s] = B (G - 1) / (E2E - TTFT)

A quantized model is measured in rounds, interleaved with the float model it was made of (`harness.timing.rounds`), after all have
warmed up until they are steady. A 16-bit float model on a CPU is measured twice, with native products and with float32 ones
(`harness.tasks.throughput.subject`): which is faster depends on the processor. Every time is on file, one item a phase and one a gap; a
metric is a median over rounds. How to read the numbers, what makes them void, and how to measure on a GPU: docs/throughput.md.
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
from harness.engines.local import cpu_matmul as products
from harness.engines.local.decodable import check_decoding
from harness.engines.local.generation import CacheKind, Generation, forget_compiled
from harness.machine import energy
from harness.machine import load as busy
from harness.machine.settings import settings, slowed_by
from harness.models.checkpoints.stored_bytes import stored_bytes
from harness.models.loaded import LoadedModel
from harness.results.record import TaskInfo
from harness.tasks import baselines
from harness.tasks.base import TaskResult, hash_token_ids
from harness.tasks.baselines import Baseline
from harness.tasks.throughput import prompts as throughput_prompts
from harness.tasks.throughput.metrics import all_metrics, items
from harness.tasks.throughput.roofline import streamed_bytes, utilizations
from harness.tasks.throughput.subject import (
    FLOAT,
    FLOAT32_PRODUCTS,
    LABELS,
    RECIPE,
    Requests,
    Size,
    Subject,
    Within,
    differing_phases,
    make_request,
    seen_products,
    with_float32_products,
)
from harness.timing.clock import clock_of
from harness.timing.distribution import LEAST_ROUNDS, MOST_DRIFT, drift
from harness.timing.rounds import interleaved
from harness.timing.warm_up import TOLERANCE, warm_up

LEAST_S = 10.0
"""Time in the rounds of a model below which there is a warning [s]."""

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
    """Run both phases through torch.compile; the time that takes is reported apart."""
    prompts: throughput_prompts.Kind = "random"
    """Random token ids, or the text of `data`."""
    seed: int = 42
    """Of random prompts, of the order in rounds, and of the bootstrap."""

    def __post_init__(self) -> None:
        """Refuse what has no rate or no spread."""
        least = {
            "batch_size": 1,
            "prompt_tokens": 1,
            "new_tokens": 2,  # the first belongs to prefill
            "rounds": LEAST_ROUNDS,
            "seed": 0,
        }
        for name, value in least.items():
            if getattr(self, name) < value:
                raise ValueError(f"{name} must be >= {value}, got {getattr(self, name)}")
        if self.compile and self.cache != "static":
            raise ValueError(f"cache must be static with compile=true, got {self.cache}")

    @property
    def seeds(self) -> dict[str, int]:
        """The one seed."""
        return {"task.seed": self.seed}

    @property
    def size(self) -> Size:
        """What one request is."""
        return Size(batch=self.batch_size, prompt=self.prompt_tokens, new=self.new_tokens)

    def data_facts(self) -> dict[str, Any]:
        """Return what identifies the prompts."""
        return throughput_prompts.facts(self.prompts, self.data, self.seed)

    def run(self, loaded: LoadedModel) -> TaskResult:
        """Measure.

        Raises:
            UnsupportedRecipe: The model came quantized, and `model.baseline` does not say what it was made of.
        """
        try:
            return self._measure(loaded)
        finally:
            if self.compile:  # torch refuses to keep code for more than a few shapes and models
                forget_compiled()

    def _measure(self, loaded: LoadedModel) -> TaskResult:
        base = baselines.find(loaded, self.name)
        if self.prompts == "text":
            base.check_text(loaded, self.data.text(), self.prompt_tokens)
        prompts_BS = throughput_prompts.prompts_of(
            self.prompts, self.data, loaded, self.size, self.seed
        )
        length = prompts_BS.shape[1] + self.new_tokens if self.cache == "static" else None
        check_decoding(loaded, prompts_BS, length)
        subjects = list(self._subjects(loaded, base, prompts_BS))
        counter, no_energy = energy.find(loaded.device)
        clock = clock_of(loaded.device)
        ask = {
            subject.name: partial(make_request, subject, self.new_tokens, clock, counter)
            for subject in subjects
        }
        log.info("%s: warming up", self.name)
        warmed = {
            name: warm_up(lambda make=make: make().timing.total_s)  # type: ignore[misc]
            for name, make in ask.items()
        }
        log.info("%s: %d rounds of %s", self.name, self.rounds, " and ".join(ask))
        watch = busy.Watch(loaded.device)
        rounds = interleaved(ask, self.rounds, self.seed)
        warnings = watch.warnings()
        found = {
            name: Requests(size=self.size, warm_up=warmed[name], rounds=tuple(made))
            for name, made in rounds.items()
        }
        by_name = {subject.name: subject for subject in subjects}
        judged = [subject for subject in subjects if subject.name != FLOAT32_PRODUCTS]
        uses = utilizations(base.loaded, judged, found)
        return TaskResult(
            info=self._info(prompts_BS, by_name[FLOAT].generation.attention),
            metrics=tuple(all_metrics(found, by_name, uses, no_energy, self.seed)),
            samples=tuple(items(found)),
            baseline=base.info,
            # That a float model is timed alone needs no warning: without a ratio nothing is compared.
            warnings=(
                *(() if base.is_itself else base.warnings),
                *warnings,
                *_unsteady(found, loaded.device),
            ),
        )

    def _subjects(
        self, loaded: LoadedModel, base: Baseline, prompts_BS: Tensor
    ) -> Iterator[Subject]:
        """Yield what is timed, the float model first."""
        native = self._subject(FLOAT, base.loaded, base.within, prompts_BS)
        yield native
        if "float32" in products.ways(base.loaded):
            widened = with_float32_products(base.within)
            other = self._subject(FLOAT32_PRODUCTS, base.loaded, widened, prompts_BS)
            if differing_phases(native, other):
                yield other
        if not base.is_itself:
            yield self._subject(RECIPE, loaded, nullcontext, prompts_BS)

    def _subject(
        self, name: str, loaded: LoadedModel, within: Within, prompts_BS: Tensor
    ) -> Subject:
        make = partial(Generation, loaded, prompts_BS, cache=self.cache)
        with within():
            return Subject(
                name=name,
                within=within,
                generation=make(self.new_tokens, compiled=self.compile),
                weight_bytes=stored_bytes(loaded.module),
                streamed_bytes=streamed_bytes(loaded),
                products=seen_products(make(2)),
            )

    def _info(self, prompts_BS: Tensor, attention: str) -> TaskInfo:
        return TaskInfo(
            name=self.name,
            version=self.version,
            protocol=(
                f"B={self.batch_size}|S={self.prompt_tokens}|G={self.new_tokens}|cache={self.cache}"
                f"|compile={'yes' if self.compile else 'no'}|attention={attention}|threads={torch.get_num_threads()}"
                f"|prompts={self.prompts}|rounds={self.rounds}|greedy, ends ignored|ttft=from token ids|median over rounds"
            ),
            data=self.data_facts() | {"ids_sha256": hash_token_ids(prompts_BS.tolist())},
        )


def _unsteady(found: Mapping[str, Requests], device: torch.device) -> Iterator[str]:
    """Yield what makes times less than steady."""
    yield from slowed_by(settings(device))
    for name, requests in found.items():
        if not requests.warm_up.steady:
            yield (
                f"the {LABELS[name]} was not steady within {TOLERANCE:.0%} after {len(requests.warm_up.seconds)} warm-ups"
            )
    moved = drift(found[FLOAT].total_s)
    if abs(moved) > MOST_DRIFT:
        yield (
            f"unstable: the time of the float model changed by {moved:+.1%} between the first rounds and the last; "
            "repeat it on an idle machine"
        )
    seconds = min(sum(requests.total_s) for requests in found.values())
    if seconds < LEAST_S:
        yield (
            f"{seconds:.1f} s were timed, which is less than {LEAST_S:.0f} s; raise task.rounds or task.new_tokens"
        )
