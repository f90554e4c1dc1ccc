"""The option `engine=vllm`: which folder vLLM runs, how, and in which Python."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch

from harness import paths
from harness.engines.base import Engine
from harness.engines.vllm.installed import installed
from harness.engines.vllm.running import RunningVllm
from harness.engines.vllm.server import Server
from harness.errors import check_bounds
from harness.models.checkpoints.folder import folder_fingerprint
from harness.models.loaded import Dtype, LoadedModel
from harness.models.sources.config_only import load_weightless

VERIFIED = "the vLLM engine has been verified on one CPU with kv_cache_dtype=auto, and not {}"
"""Warning of a record; what was not verified stands in the braces."""
OWN_FIELDS = ("path", "python", "extra")
"""Fields that are not arguments of `vllm.LLM`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VllmEngine:
    """A checkpoint folder that vLLM runs; the fields after `python` are arguments of `vllm.LLM`."""

    label: ClassVar[str] = "vllm"
    starts: ClassVar[type[Engine]] = RunningVllm

    path: str
    """Folder that `python -m harness.export` or `save_pretrained` wrote."""
    python: str | None = None
    """The Python that has vLLM, such as `.venv-vllm/bin/python`; None is this one."""
    dtype: Dtype = "bfloat16"
    """Type of activations, and of weights that are not quantized."""
    max_model_len: int | None = None
    """Longest sequence; None is the model's own [token]."""
    gpu_memory_utilization: float = 0.9
    """Share of the device's memory that vLLM takes, in (0, 1]; on a CPU, of the machine's."""
    enforce_eager: bool = False
    """Run without CUDA graphs and compilation."""
    trust_remote_code: bool = False
    """Run Python code that the folder ships."""
    seed: int = 0
    """Seed of the sampler of vLLM; decoding here is greedy."""
    tensor_parallel_size: int = 1
    """Devices that share every layer."""
    pipeline_parallel_size: int = 1
    """Groups of devices, each with some of the layers."""
    kv_cache_dtype: str = "auto"
    """Type of the KV cache, such as `fp8`; `auto` is `dtype`."""
    max_num_seqs: int | None = None
    """Largest number of sequences that run together; None is vLLM's choice."""
    extra: Mapping[str, str | int | float | bool | None] = field(default_factory=dict)
    """Further arguments of `vllm.LLM`."""

    def __post_init__(self) -> None:
        """Check the bounds of fields, and that no further argument has a field of its own."""
        check_bounds(
            self, max_model_len=1, tensor_parallel_size=1, pipeline_parallel_size=1, max_num_seqs=1
        )
        if not 0 < self.gpu_memory_utilization <= 1:
            raise ValueError(
                f"gpu_memory_utilization must be in (0, 1], got {self.gpu_memory_utilization}"
            )
        if known := sorted(self.extra.keys() & {"model", *self.__slots__}):
            raise ValueError(f"extra must not have what has a key of its own, got {known}")

    @property
    def folder(self) -> Path:
        """Absolute path of the folder."""
        return paths.expanded(self.path).absolute()

    @property
    def model_name(self) -> str:
        """Name of the folder."""
        return self.folder.name

    def facts(self) -> dict[str, Any]:
        """Return what identifies engine and checkpoint."""
        found = installed(self._python())
        return {
            "engine": self.label,
            "engine_package": found.package,
            "engine_version": found.version,
            "checkpoint_fingerprint": folder_fingerprint(self.folder),
        }

    @contextmanager
    def start(
        self,
        loaded: LoadedModel | None,  # noqa: ARG002 - the folder has the model
        device: torch.device,
    ) -> Iterator[RunningVllm]:
        """Context manager: an engine whose vLLM loads the folder at the first request.

        Raises:
            ConfigError: There is no vLLM, or one that is built for another kind of device.
            ModelError: The folder has no whole model.
        """
        facts = self.facts()
        weightless = load_weightless(
            self.folder, dtype=self.dtype, trust_remote_code=self.trust_remote_code
        )
        notes = tuple(VERIFIED.format(each) for each in self._unverified(device))
        with Server(self._python(), self._arguments(), device.type) as server:
            server.connect()
            yield RunningVllm(server, weightless, self.max_model_len, facts, device.type, notes)

    def _unverified(self, device: torch.device) -> Iterator[str]:
        """Yield what was not run when the engine was verified (docs/vllm.md)."""
        if device.type != "cpu":
            yield "on a GPU"
        if (count := self.tensor_parallel_size * self.pipeline_parallel_size) > 1:
            yield f"on {count} devices"
        if self.kv_cache_dtype != "auto":
            yield f"with kv_cache_dtype={self.kv_cache_dtype}"

    def _python(self) -> str:
        return sys.executable if self.python is None else str(paths.expanded(self.python))

    def _arguments(self) -> dict[str, Any]:
        """Return the arguments of `vllm.LLM`."""
        own = {name: getattr(self, name) for name in self.__slots__ if name not in OWN_FIELDS}
        if self.max_num_seqs is None:
            del own["max_num_seqs"]
        # Only with its statistics on does vLLM stamp each request.
        return {"model": str(self.folder), **own, "disable_log_stats": False, **self.extra}
