"""Start vLLM on a checkpoint folder, and free its memory again.

vLLM runs in this process (`VLLM_ENABLE_V1_MULTIPROCESSING=0`). So a batch is scheduled as one, and
its memory counts as memory of the run.
"""

import gc
import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from harness import paths
from harness.engines.vllm.running import Running
from harness.errors import ConfigError, ModelError
from harness.models.checkpoints.folder import folder_fingerprint
from harness.models.loaded import Dtype, LoadedModel
from harness.models.sources.config_only import load_weightless

UNVERIFIED = (
    "the vLLM engine was written to vLLM's documentation and has not been verified against "
    "vLLM itself"
)
IN_PROCESS = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
"""Environment variables that keep vLLM from starting a process of its own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VllmEngine:
    """A checkpoint folder that vLLM runs; the fields are arguments of `vllm.LLM`."""

    path: str
    """Folder that `python -m harness.export` or `save_pretrained` wrote."""
    dtype: Dtype = "bfloat16"
    """Type of activations, and of weights that are not quantized."""
    max_model_len: int | None = None
    """Longest sequence; None is the model's own [token]."""
    gpu_memory_utilization: float = 0.9
    """Share of the GPU's memory that vLLM takes, in (0, 1]."""
    enforce_eager: bool = False
    """Run without CUDA graphs and compilation."""
    trust_remote_code: bool = False
    """Run Python code that the folder ships."""
    seed: int = 0
    """Seed of the sampler of vLLM; decoding here is greedy."""

    def __post_init__(self) -> None:
        """Check the share of memory."""
        if not 0 < self.gpu_memory_utilization <= 1:
            raise ValueError(
                f"gpu_memory_utilization must be in (0, 1], got {self.gpu_memory_utilization}"
            )

    @property
    def folder(self) -> Path:
        """Absolute path of the folder."""
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
        """Return tokenizer and configuration of the folder, without its weights."""
        return load_weightless(
            self.folder, dtype=self.dtype, trust_remote_code=self.trust_remote_code
        )

    @contextmanager
    def start(self, device: torch.device, **options: Any) -> Iterator[Running]:
        """Context manager in which vLLM holds the folder's model.

        Args:
            device: Device that vLLM must run on.
            options: Further arguments of `vllm.LLM`.

        Raises:
            ConfigError: The installed vLLM is built for another kind of device.
            ModelError: vLLM cannot load the folder.
        """
        vllm = installed()
        # A wheel of vLLM is built for one kind of device, and takes no other.
        built_for = importlib.import_module("vllm.platforms").current_platform.device_type
        if built_for != device.type:
            raise ConfigError(
                f"device must be {built_for}, for which the installed vLLM is built, "
                f"got {device.type}"
            )
        # vLLM reads these when `LLM` is made. A user's own setting wins.
        for name, value in IN_PROCESS.items():
            os.environ.setdefault(name, value)
        try:
            llm = vllm.LLM(model=str(self.folder), **self._arguments(), **options)
        # What vLLM raises for files, formats and sizes that it does not take.
        except (ValueError, RuntimeError, OSError, KeyError) as reason:
            raise ModelError(
                f"task.engine.path must be a folder that vLLM {vllm.__version__} loads, got "
                f"{self.folder}: {reason}"
            ) from reason
        running = Running(llm=llm, sampling=vllm.SamplingParams)
        # `running` is the only reference, so that the block below can end it.
        del llm
        try:
            yield running
        finally:
            # A caller may still hold `running`; without the LLM it holds no memory of the GPU.
            running.llm = None
            # Objects in a reference cycle are freed by the collector alone.
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
            # Only with its statistics on does vLLM stamp each request.
            "disable_log_stats": False,
        }


def installed() -> Any:
    """Return the module `vllm`.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        return importlib.import_module("vllm")
    except ImportError as reason:
        raise ConfigError(
            f"vllm must be installed for tasks that end in _vllm, got: {reason}; "
            "run `pip install vllm` on a machine with a GPU (this engine has not been verified "
            "against it), or take the same task without _vllm"
        ) from reason
