"""Model folders, read anew by every test."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from caches import emptied
from quantized_folders import llama

from harness.models.loaded import LoadedModel
from harness.models.sources import pretrained as hub
from harness.models.sources.tiny import byte_tokenizer


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    """Where a repository lies is looked up once a process; tests move it."""
    with emptied(hub._locate_model):
        yield


@pytest.fixture
def folder(tiny: LoadedModel, tmp_path: Path) -> Path:
    """The tiny model, whose head is tied, as save_pretrained writes it."""
    folder = tmp_path / "model"
    tiny.module.save_pretrained(folder)
    tiny.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def eager() -> Iterator[None]:
    """Let the libraries not compile what they call a few times."""
    with torch.compiler.set_stance("force_eager"):
        yield


@pytest.fixture(scope="module")
def float_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the unquantized model that libraries quantize."""
    folder = tmp_path_factory.mktemp("float")
    llama().save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder
