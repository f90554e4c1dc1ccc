"""A stand-in for vLLM, after its documented interface, that decodes with a model of transformers.

It knows nothing of the engine's code: it loads the folder with transformers, decodes one prompt
after another by plain forward passes without a cache, and stamps requests by a clock of its own.
"""

import functools
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM

from harness.results.record import Metric, RunRecord

VERSION = "0.0.stand-in"
QUEUED_S, PREFILL_S, STEP_S, LATENCY_S = 0.5, 0.25, 0.01, 0.4
"""What the clock of the stand-in says; `LATENCY_S` counts from arrival, on another clock."""


@dataclass(kw_only=True)
class SamplingParams:
    """The arguments of `vllm.SamplingParams` that may be given, with its defaults."""

    temperature: float = 1.0
    max_tokens: int = 16
    min_tokens: int = 0
    ignore_eos: bool = False
    detokenize: bool = True
    logprobs: int | None = None
    prompt_logprobs: int | None = None


@dataclass
class StandIn:
    """What the stand-in is told to do wrong, and what it was asked."""

    stamped: bool = True
    has_latency: bool = True
    spread_s: float = 0.0
    """Each request of a batch is prefilled so much later than the one before."""
    truncate_to: int | None = None
    stop_early: bool = False
    lose_last: bool = False
    started: list[dict[str, Any]] = field(default_factory=list)
    sampled: list[SamplingParams] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    """Prompts of each call."""

    def llm(  # the documented arguments that may be given, and no others
        self,
        model: str,
        *,
        dtype: str = "auto",
        seed: int = 0,
        max_model_len: int | None = None,
        gpu_memory_utilization: float = 0.9,
        enforce_eager: bool = False,
        trust_remote_code: bool = False,
        disable_log_stats: bool = True,
        enable_prefix_caching: bool = True,
        max_num_seqs: int = 256,
        max_num_batched_tokens: int = 8192,
    ) -> "LLM":
        self.started.append({k: v for k, v in locals().items() if k != "self"})
        return LLM(self, greedy_of(model, dtype), stamped=self.stamped and not disable_log_stats)


class Greedy:
    """A model of a folder, decoded by whole forward passes; answers are remembered."""

    def __init__(self, folder: str, dtype: str) -> None:
        module = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
        self.eos, self.module, self.known = module.config.eos_token_id, module, {}

    def continuation(self, ids: tuple[int, ...], count: int) -> tuple[int, ...]:
        if (ids, count) not in self.known:
            tokens: tuple[int, ...] = ()
            for _ in range(count):
                with torch.inference_mode():
                    logits = self.module(torch.tensor([ids + tokens])).logits[0, -1]
                tokens += (int(logits.argmax()),)
            self.known[ids, count] = tokens
        return self.known[ids, count]


greedy_of = functools.cache(Greedy)


class LLM:
    def __init__(self, stand_in: StandIn, greedy: "Greedy", *, stamped: bool) -> None:
        self.stand_in, self.greedy, self.stamped = stand_in, greedy, stamped

    def generate(
        self,
        prompts: list[dict[str, list[int]]],
        sampling_params: SamplingParams,
        *,
        use_tqdm: bool = True,
    ) -> list[SimpleNamespace]:
        self.stand_in.sampled.append(sampling_params)
        self.stand_in.batches.append(len(prompts))
        outputs = [
            self._output(index, prompt["prompt_token_ids"], sampling_params)
            for index, prompt in enumerate(prompts)
        ]
        return outputs[:-1] if self.stand_in.lose_last else outputs

    def _output(self, index: int, ids: list[int], sampling: SamplingParams) -> SimpleNamespace:
        assert sampling.temperature == 0
        ids = ids[-self.stand_in.truncate_to :] if self.stand_in.truncate_to else ids
        tokens, reason = self._decode(ids, sampling)
        completion = SimpleNamespace(
            index=0, text="", token_ids=tokens, logprobs=None, finish_reason=reason
        )
        return SimpleNamespace(
            request_id=str(index),
            prompt=None,
            prompt_token_ids=ids,
            outputs=[completion],
            finished=True,
            metrics=self._metrics(index, len(tokens)) if self.stamped else None,
        )

    def _decode(self, ids: list[int], sampling: SamplingParams) -> tuple[list[int], str]:
        whole = self.greedy.continuation(tuple(ids), sampling.max_tokens)
        if self.stand_in.stop_early:
            return list(whole[:1]), "stop"
        if self.greedy.eos in whole and not sampling.ignore_eos:
            return list(whole[: whole.index(self.greedy.eos) + 1]), "stop"
        return list(whole), "length"

    def _metrics(self, index: int, count: int) -> SimpleNamespace:
        """`RequestStateStats` of vLLM 0.11."""
        first = 1000.0 + QUEUED_S + PREFILL_S + index * self.stand_in.spread_s
        stamps = SimpleNamespace(
            num_generation_tokens=count,
            arrival_time=1.7e9,
            queued_ts=1000.0,
            scheduled_ts=1000.0 + QUEUED_S,
            first_token_ts=first,
            last_token_ts=first + (count - 1) * STEP_S,
        )
        if self.stand_in.has_latency:
            stamps.first_token_latency = LATENCY_S + index * self.stand_in.spread_s
        return stamps


def install(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """Put a module `vllm` in the place of the real one."""
    found = StandIn()
    vllm, platforms = ModuleType("vllm"), ModuleType("vllm.platforms")
    vllm.__dict__.update(__version__=VERSION, LLM=found.llm, SamplingParams=SamplingParams)
    platforms.__dict__.update(current_platform=SimpleNamespace(device_type="cpu"))
    monkeypatch.setitem(sys.modules, "vllm", vllm)
    monkeypatch.setitem(sys.modules, "vllm.platforms", platforms)
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    return found


class Measured(NamedTuple):
    """A run with the stand-in."""

    stand_in: StandIn
    record: RunRecord
    samples: pd.DataFrame
    path: Path

    def metrics(self) -> dict[str, Metric]:
        """Return the metrics by name."""
        return {metric.name: metric for metric in self.record.metrics}
