"""Models of the hub, and local folders in the same layout."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import torch

from harness import paths
from harness.errors import ModelError
from harness.hub_files import Found, Repository, locate
from harness.models.checkpoints.folder import MODEL_FILES, folder_fingerprint, load_folder
from harness.models.checkpoints.folder_files import FOREIGN_WEIGHTS, missing_files, weight_files
from harness.models.checkpoints.loading_report import check_once
from harness.models.checkpoints.loading_warnings import loading_warnings
from harness.models.checkpoints.plausible import check_config_sizes
from harness.models.checkpoints.readers import load_prequantized
from harness.models.checkpoints.settings import settings_of
from harness.models.loaded import Dtype, LoadedModel, ModelSource, Weights
from harness.models.sources.random import Shape, load_random
from harness.results.record import FLOAT_CHECKPOINT


@dataclass(frozen=True, kw_only=True, slots=True)
class HubModel:
    """A causal language model of the hub, pinned to a commit when it is loaded."""

    repo: str
    """`owner/name`."""
    revision: str = "main"
    """Branch, tag or commit; the record has the commit."""
    path: str | None = None
    """A folder to load instead of searching for the repository."""
    dtype: Dtype = "bfloat16"
    """Type that weights and activations are computed in."""
    trust_remote_code: bool = False
    """Whether to run Python code of the repository."""
    weights: Weights = "pretrained"
    """`random` needs only the shape and downloads nothing; only speed can be measured with it."""
    shape: Shape | None = None
    """Sizes of the model, for random weights."""
    seed: int = 0
    """Seed of random weights."""
    baseline: ModelSource | None = None
    """The unquantized model that a quantized checkpoint was made of, to compare it with."""
    attention: str | None = None
    """Attention implementation of transformers; None is `sdpa` where the class has it, else
    `eager`."""

    def __post_init__(self) -> None:
        """Check that random weights have a shape."""
        if self.weights == "random" and self.shape is None:
            raise ValueError(
                f"shape must be given for weights=random, got none for {self.repo}; copy the shape "
                "block of conf/model/qwen3_1_7b.yaml and fill in what the config.json of the model "
                "says"
            )

    @property
    def name(self) -> str:
        """`owner/name`; the name of the folder if the user gave one, which may hold anything."""
        if self.path is None or self._random_shape():
            return self.repo
        return paths.expanded(self.path).absolute().name

    def fingerprint(self) -> str:
        """Return the hub commit, else the hash of the files; for random weights, shape and seed."""
        if shape := self._random_shape():
            return shape.fingerprint(self.seed)
        found = self._locate()
        return found.revision or folder_fingerprint(found.folder)

    def load(self, device: torch.device) -> LoadedModel:
        """Load the model; `harness.hub_files.locate` says from where."""
        if shape := self._random_shape():
            return load_random(
                shape,
                like=self.repo,
                seed=self.seed,
                dtype=self.dtype,
                device=device,
                attention=self.attention,
            )
        found = self._locate()
        loaded = _load_found(self, found, device)
        if self.path is not None:
            loaded.origin += ", from a folder given by the user"
        if found.revision is None and self.revision != "main":
            loaded.warnings += (
                f"model.revision is {self.revision}, but the weights come from the folder "
                f"{found.folder}, which has no commit: it may hold another revision; the "
                "fingerprint is the hash of its files",
            )
        return loaded

    def _random_shape(self) -> Shape | None:
        return self.shape if self.weights == "random" else None

    def _locate(self) -> Found:
        patterns = tuple(p for p in MODEL_FILES if p != "*.py" or self.trust_remote_code)
        return _locate_model(self.repo, self.revision, self.path, patterns)


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalModel:
    """A folder that `save_pretrained` or a quantizer wrote, with float or quantized weights."""

    path: str
    """The folder."""
    name: str = "local"
    """Name of the model in records and reports."""
    dtype: Dtype = "bfloat16"
    """Type that weights and activations are computed in."""
    trust_remote_code: bool = False
    """Run Python code that the folder ships."""
    baseline: ModelSource | None = None
    """The unquantized model that a quantized checkpoint was made of, to compare it with."""
    attention: str | None = None
    """Attention implementation of transformers; None is `sdpa` where the class has it, else
    `eager`."""
    weights: ClassVar[Weights] = "pretrained"

    def fingerprint(self) -> str:
        """Return the hash of the files."""
        return folder_fingerprint(self._folder())

    def load(self, device: torch.device) -> LoadedModel:
        """Load the folder."""
        return _load_found(self, Found(folder=self._folder(), revision=None), device)

    def _folder(self) -> Path:
        folder = paths.expanded(self.path)
        if not paths.is_folder(folder):
            raise ModelError(f"model.path must be a folder, got {str(folder)!r}; correct the path")
        return folder.resolve()


def _load_found(source: HubModel | LocalModel, found: Found, device: torch.device) -> LoadedModel:
    """Load a folder as its config.json says: float weights, or a quantized checkpoint."""
    folder = found.folder
    options: dict[str, Any] = {
        "trust_remote_code": source.trust_remote_code,
        "attention": source.attention,
    }
    # Both before anything else reads the configuration, which may be damaged or absurd.
    weight_files(folder)
    check_config_sizes(folder, trust_remote_code=source.trust_remote_code)
    settings, stored = settings_of(folder), None
    if settings is None:
        module, tokenizer, warnings = load_folder(
            folder, dtype=source.dtype, device=device, **options
        )
    else:
        module, tokenizer, stored = load_prequantized(
            folder, settings, dtype=source.dtype, device=device, **options
        )
        check_once(folder, module)
        warnings = loading_warnings(folder, module)
    return LoadedModel(
        module=module,
        tokenizer=tokenizer,
        name=source.name,
        dtype=getattr(torch, source.dtype),
        device=device,
        fingerprint=source.fingerprint(),
        revision=found.revision,
        origin=FLOAT_CHECKPOINT if stored is None else stored.origin,
        prequantized=stored,
        warnings=tuple(warnings),
        baseline=source.baseline,
        folder=folder,
    )


@lru_cache(maxsize=16)
def _locate_model(repo: str, revision: str, path: str | None, patterns: tuple[str, ...]) -> Found:
    repository = Repository(
        name=repo,
        kind="model",
        patterns=patterns,
        unwanted=FOREIGN_WEIGHTS,
        missing=missing_files,
        revision=revision,
    )
    return locate(repository, path, override="model.path", error=ModelError)
