"""vLLM on a checkpoint folder, by its offline interface: `LLM`, `SamplingParams`, `RequestOutput`.

**Unverified.** The wheel needs a GPU and several GB, so this was written to vLLM's documentation (0.11 and later) and tested against a
stand-in of that interface, never against vLLM. Every record says so.

- Decoding is greedy, and ends of text are ignored, so that every request gets its full number of tokens. `min_tokens` would do that
  too, but by forbidding the end token, which changes what is decoded.
- Prompts go in as token ids. What comes back is checked: the same prompts, whole, in order, with as many tokens as were asked for.
- The engine runs in this process (`VLLM_ENABLE_V1_MULTIPROCESSING=0`): a batch is scheduled as one, and its memory is counted.
- vLLM stamps each request only with `disable_log_stats=False`. `scheduled_ts`, `first_token_ts` and `last_token_ts` are of one
  monotonic clock and may be subtracted; `arrival_time` is of another, so the time to the first token is vLLM's own
  `first_token_latency`.
"""

import gc
import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from harness import paths
from harness.errors import ConfigError, InvalidResult, ModelError
from harness.models.checkpoints.folder import folder_fingerprint
from harness.models.loaded import Dtype, LoadedModel
from harness.models.sources.config_only import load_weightless

UNVERIFIED = "the vLLM engine was written to vLLM's documentation and has not been verified against vLLM itself"
IN_PROCESS = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Stamps:
    """When vLLM did what for a request; times of one clock [s]."""

    scheduled: float
    first_token: float
    last_token: float
    first_token_latency: float | None
    """From arrival to the first token, as vLLM says; None in versions that do not [s]."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """What an engine made of a prompt."""

    tokens: tuple[int, ...]
    stamps: Stamps | None
    """None where this version of vLLM gives none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VllmEngine:
    """A folder that vLLM runs; the fields are arguments of `vllm.LLM`."""

    path: str
    """What `python -m harness.export` or `save_pretrained` wrote."""
    dtype: Dtype = "bfloat16"
    """Type of activations, and of weights that are not quantized."""
    max_model_len: int | None = None
    """Longest sequence; None is the model's own [token]."""
    gpu_memory_utilization: float = 0.9
    """Share of the GPU's memory that vLLM takes."""
    enforce_eager: bool = False
    """Without CUDA graphs and compilation."""
    trust_remote_code: bool = False
    """Run Python code that the folder ships."""
    seed: int = 0
    """Seed of vLLM's sampler; decoding here is greedy."""

    def __post_init__(self) -> None:
        """Refuse a share that is none."""
        if not 0 < self.gpu_memory_utilization <= 1:
            raise ValueError(
                f"gpu_memory_utilization must be in (0, 1], got {self.gpu_memory_utilization}"
            )

    @property
    def folder(self) -> Path:
        """The folder."""
        return paths.expanded(self.path).absolute()

    @property
    def label(self) -> str:
        """Engine and version, for protocol lines."""
        return f"vllm-{installed().__version__}"

    def facts(self) -> dict[str, Any]:
        """Return what identifies engine and checkpoint."""
        return {
            "engine": "vllm",
            "engine_version": str(installed().__version__),
            "checkpoint_fingerprint": folder_fingerprint(self.folder),
        }

    def weightless(self) -> LoadedModel:
        """Return tokenizer and configuration of the folder."""
        return load_weightless(
            self.folder, dtype=self.dtype, trust_remote_code=self.trust_remote_code
        )

    @contextmanager
    def start(self, device: torch.device, **options: Any) -> Iterator["Running"]:
        """Load the folder, and let it go at the end of the block.

        Args:
            device: Where it must run.
            options: Further arguments of `vllm.LLM`.

        Raises:
            ConfigError: This vLLM is built for another kind of device.
            ModelError: vLLM cannot load the folder.
        """
        vllm = installed()
        built_for = importlib.import_module("vllm.platforms").current_platform.device_type
        if built_for != device.type:
            raise ConfigError(
                f"device must be {built_for}, for which the installed vLLM is built, got {device.type}"
            )
        for name, value in IN_PROCESS.items():
            os.environ.setdefault(name, value)
        try:
            llm = vllm.LLM(model=str(self.folder), **self._arguments(), **options)
        except (ValueError, RuntimeError, OSError, KeyError) as reason:
            raise ModelError(
                f"task.engine.path must be a folder that vLLM {vllm.__version__} loads, got {self.folder}: {reason}"
            ) from reason
        running = Running(llm=llm, sampling=vllm.SamplingParams)
        del llm
        try:
            yield running
        finally:
            running.llm = None  # what still holds the engine would hold the memory of the GPU
            gc.collect()
            if device.type == "cuda":
                torch.cuda.empty_cache()

    def _arguments(self) -> dict[str, Any]:
        return {
            "dtype": self.dtype,
            "max_model_len": self.max_model_len,
            "gpu_memory_utilization": self.gpu_memory_utilization,
            "enforce_eager": self.enforce_eager,
            "trust_remote_code": self.trust_remote_code,
            "seed": self.seed,
            "disable_log_stats": False,
        }


@dataclass(kw_only=True, slots=True, eq=False)
class Running:
    """An engine that holds a model."""

    llm: Any
    sampling: Any
    """`vllm.SamplingParams`."""

    def generate(self, prompts: Sequence[Sequence[int]], new_tokens: int) -> list[Completion]:
        """Continue each prompt greedily by `new_tokens` tokens, whatever they are.

        Raises:
            InvalidResult: What came back is not what was asked for.
        """
        asked = [list(prompt) for prompt in prompts]
        outputs = self.llm.generate(
            [{"prompt_token_ids": prompt} for prompt in asked],
            self.sampling(
                temperature=0.0, max_tokens=new_tokens, ignore_eos=True, detokenize=False
            ),
            use_tqdm=sys.stderr.isatty(),
        )
        if len(outputs) != len(asked):
            raise InvalidResult(
                f"vLLM must answer {len(asked)} prompts, got {len(outputs)} answers"
            )
        return [_checked(*pair, new_tokens) for pair in zip(asked, outputs, strict=True)]


def _checked(prompt: list[int], output: Any, new_tokens: int) -> Completion:
    """Return an answer whose prompt and length are those that were asked for."""
    if list(output.prompt_token_ids or ()) != prompt:
        raise InvalidResult(
            f"vLLM must run every prompt as it is, got {len(output.prompt_token_ids or ())} tokens for one of {len(prompt)}, "
            "cut off or changed"
        )
    tokens = tuple(int(token) for token in output.outputs[0].token_ids)
    if len(tokens) != new_tokens:
        raise InvalidResult(
            f"vLLM must decode {new_tokens} tokens for each prompt, got {len(tokens)} "
            f"(finish_reason {output.outputs[0].finish_reason}); raise task.engine.max_model_len if it is set"
        )
    return Completion(tokens=tokens, stamps=_stamps(output.metrics))


def _stamps(metrics: Any) -> Stamps | None:
    """Return the stamps of a request, or None: versions differ in what they keep, and 0 stands for nothing."""
    names = ("scheduled_ts", "first_token_ts", "last_token_ts")
    scheduled, first, last = (float(getattr(metrics, name, 0.0) or 0.0) for name in names)
    if not scheduled or not first or not last:
        return None
    latency = float(getattr(metrics, "first_token_latency", 0.0) or 0.0)
    return Stamps(
        scheduled=scheduled,
        first_token=first,
        last_token=last,
        first_token_latency=latency or None,
    )


def installed() -> Any:
    """Return the module `vllm`.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        return importlib.import_module("vllm")
    except ImportError as reason:
        raise ConfigError(
            f"vllm must be installed for tasks that end in _vllm, got: {reason}; run `pip install vllm` on a machine with "
            "a GPU (this engine has not been verified against it), or take the same task without _vllm"
        ) from reason
