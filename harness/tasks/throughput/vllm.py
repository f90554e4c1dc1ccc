"""Task `throughput_vllm`: speed of a checkpoint in vLLM.

Unverified, see `harness.engines.vllm`.

The requests are those of task `throughput`, with the same prompts: B sequences of S tokens, G new
tokens each, end-of-text tokens ignored. Times are vLLM's own time stamps of each request, in
rounds:

    prefill   from the first request scheduled to the last first token      B S tokens
    decode    from the first token of the batch to its last                 B (G - 1) tokens
    TPOT      (last token - first token) / (G - 1), mean over the requests
    TTFT      from arrival to first token, of the slowest request, with queue and tokenization

The token budget of a step is B S, so that one step prefills the whole batch and the phases do not
overlap; a warning tells if they overlap all the same. Prefixes are not cached, since every round
asks for the same ones. Metrics that vLLM has no time stamps for are null.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from harness.data.source import DataSource
from harness.engines.vllm.engine import UNVERIFIED, VllmEngine
from harness.engines.vllm.running import Completion, Running
from harness.errors import InvalidResult, check_bounds
from harness.models.tokens import hash_token_ids
from harness.results.record import Metric, SampleScore, TaskInfo, Unit
from harness.tasks.base import TaskResult
from harness.tasks.throughput import prompts as throughput_prompts
from harness.tasks.throughput.subject import Size
from harness.timing.distribution import (
    LEAST_ROUNDS,
    Statistics,
    rate_statistics,
    time_statistics,
)
from harness.timing.rounds import quiet
from harness.timing.warm_up import warm_up

NO_STAMPS = "this version of vLLM gave no time stamps of the requests"
NO_LATENCIES = "vLLM stamps the first and the last token of a request, not those between them"
NO_INTERVAL = "median over rounds, its spread is in the metric of the same name with _iqr"
MOST_OVERLAP = 0.02
"""Largest spread of a batch's first tokens without a warning, as a share of its decode time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VllmThroughput:
    """Speed of prefill and decode in vLLM; see the module docstring."""

    name: ClassVar[str] = "throughput_vllm"
    version: ClassVar[int] = 1
    needs_trained_weights: ClassVar[bool] = False
    is_timed: ClassVar[bool] = True

    data: DataSource
    """Where prompts of kind `text` come from."""
    engine: VllmEngine
    """The checkpoint, and how vLLM runs it."""
    batch_size: int = 1
    """Sequences that run together."""
    prompt_tokens: int = 512
    """Tokens of each prompt."""
    new_tokens: int = 128
    """Tokens decoded after each prompt."""
    rounds: int = 10
    """Repetitions of every measurement."""
    prompts: throughput_prompts.Kind = "random"
    """Random token ids, or the text of `data`."""
    seed: int = 42
    """Seed of random prompts."""

    def __post_init__(self) -> None:
        """Check the bounds of fields."""
        # The first new token belongs to prefill.
        check_bounds(self, batch_size=1, prompt_tokens=1, new_tokens=2, rounds=LEAST_ROUNDS)

    @property
    def seeds(self) -> dict[str, int]:
        """The seed of random prompts."""
        return {"task.seed": self.seed}

    def data_facts(self) -> dict[str, Any]:
        """Return what identifies the prompts, the engine and the checkpoint."""
        prompts = throughput_prompts.facts(self.prompts, self.data, self.seed)
        return prompts | self.engine.facts()

    def run_on(self, device: torch.device) -> TaskResult:
        """Measure."""
        prompts = self._prompts()
        with self.engine.start(
            device,
            enable_prefix_caching=False,
            max_num_seqs=self.batch_size,
            max_num_batched_tokens=self.batch_size * self.prompt_tokens,
        ) as running:
            warmed = warm_up(lambda: _wall_s(running, prompts, self.new_tokens))
            with quiet():
                batches = [running.generate(prompts, self.new_tokens) for _ in range(self.rounds)]
        times = [self._times(batch) for batch in batches]
        warnings = [UNVERIFIED]
        if not warmed.steady:
            warnings.append(
                f"times were not steady within 2 % after {len(warmed.seconds)} warm-ups"
            )
        if (apart := _overlap(times)) > MOST_OVERLAP:
            warnings.append(
                "the batch was not prefilled in one step: its first tokens lie apart by "
                f"{apart:.0%} of the decode time"
            )
        return TaskResult(
            info=self._info(prompts),
            metrics=tuple(self._metrics(times)),
            samples=tuple(
                SampleScore(id=f"round/{i}", cluster=f"round/{i}", scores=dict(scores))
                for i, scores in enumerate(times)
            ),
            warnings=tuple(warnings),
        )

    def _prompts(self) -> list[list[int]]:
        size = Size(batch=self.batch_size, prompt=self.prompt_tokens, new=self.new_tokens)
        loaded = self.engine.weightless()
        ids_BS = throughput_prompts.prompts_of(self.prompts, self.data, loaded, size, self.seed)
        found: list[list[int]] = ids_BS.tolist()
        return found

    def _times(self, batch: Sequence[Completion]) -> Mapping[str, float]:
        """Return the times of a round by name, those that vLLM has time stamps for [s].

        Raises:
            InvalidResult: Time stamps run backwards.
        """
        stamps = [completion.stamps for completion in batch if completion.stamps]
        if len(stamps) < len(batch):
            return {}
        first, last = min(s.first_token for s in stamps), max(s.last_token for s in stamps)
        start, prefilled = min(s.scheduled for s in stamps), max(s.first_token for s in stamps)
        steps = self.new_tokens - 1
        each = [(s.last_token - s.first_token) / steps for s in stamps]
        times = {
            "prefill_s": prefilled - start,
            "decode_s": last - first,
            "tpot_s": sum(each) / len(each),
            "total_s": last - start,
        }
        latencies = [s.first_token_latency for s in stamps if s.first_token_latency is not None]
        if len(latencies) == len(stamps):
            times["ttft_s"] = max(latencies)
        if not all(value > 0 for value in times.values()):
            raise InvalidResult(f"every phase must take longer than 0 s, got {times}")
        return times | {"first_tokens_apart_s": prefilled - first}

    def _metrics(self, rounds: Sequence[Mapping[str, float]]) -> Iterator[Metric]:
        """Yield the metrics of task `throughput` that vLLM's stamps give, headline first."""
        batch, prompt, new = self.batch_size, self.prompt_tokens, self.new_tokens
        rates = {
            "decode": (batch * (new - 1), "decode_s", Unit.TOKEN_PER_S),
            "prefill": (batch * prompt, "prefill_s", Unit.TOKEN_PER_S),
            "prefill_samples": (batch, "prefill_s", Unit.SAMPLE_PER_S),
            "end_to_end": (batch * (prompt + new), "total_s", Unit.TOKEN_PER_S),
        }
        for name, (count, of, unit) in rates.items():
            known = _known(rounds, of)
            found = rate_statistics(count, known) if known else None
            yield from _pair(name, found, unit, len(rounds), higher_is_better=True)
        for name, unit in {"ttft": Unit.SECOND, "tpot": Unit.SECOND_PER_TOKEN}.items():
            known = _known(rounds, f"{name}_s")
            found = time_statistics(known) if known else None
            yield from _pair(name, found, unit, len(rounds), higher_is_better=False)
        for percent in (50, 90, 99):
            yield Metric(
                name=f"itl_p{percent}",
                value=None,
                unit=Unit.SECOND,
                n=0,
                n_of="gap",
                higher_is_better=False,
                note=NO_LATENCIES,
            )

    def _info(self, prompts: Sequence[Sequence[int]]) -> TaskInfo:
        return TaskInfo(
            name=self.name,
            version=self.version,
            protocol=(
                f"batch={self.batch_size}|prompt={self.prompt_tokens}|new={self.new_tokens}"
                f"|rounds={self.rounds}|prompts={self.prompts}|stamps=vllm"
                f"|engine={self.engine.label}"
            ),
            data=self.data_facts() | {"token_ids_sha256": hash_token_ids(prompts)},
            needs_model=False,
        )


def _wall_s(running: Running, prompts: Sequence[Sequence[int]], new_tokens: int) -> float:
    start = time.perf_counter()
    running.generate(prompts, new_tokens)
    return time.perf_counter() - start


def _known(rounds: Sequence[Mapping[str, float]], name: str) -> list[float] | None:
    """Return one time of every round, or None if some round lacks it."""
    values = [times[name] for times in rounds if name in times]
    return values if len(values) == len(rounds) else None


def _overlap(rounds: Sequence[Mapping[str, float]]) -> float:
    """Return the largest spread of a batch's first tokens, as a share of its decode time."""
    return max((t["first_tokens_apart_s"] / t["decode_s"] for t in rounds if t), default=0.0)


def _pair(
    name: str, found: Statistics | None, unit: Unit, rounds: int, *, higher_is_better: bool
) -> Iterator[Metric]:
    """Yield a metric and its interquartile range."""
    for suffix, value, better, note in (
        ("", found and found.median, higher_is_better, NO_INTERVAL),
        ("_iqr", found and found.iqr, False, None),
    ):
        yield Metric(
            name=name + suffix,
            value=value,
            unit=unit,
            n=rounds,
            n_of="round",
            higher_is_better=better,
            note=note if found else NO_STAMPS,
        )
