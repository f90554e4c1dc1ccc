"""Model folders, read anew by every test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.models import checkpoint, hub
from harness.models.source import LoadedModel


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    """Folders are taken as unchanging within a process; tests change them."""
    readers = (checkpoint.folder_fingerprint, hub._locate_model)
    for reader in readers:
        reader.cache_clear()
    yield
    for reader in readers:
        reader.cache_clear()


@pytest.fixture
def folder(tiny: LoadedModel, tmp_path: Path) -> Path:
    """The tiny model, whose head is tied, as save_pretrained writes it."""
    folder = tmp_path / "model"
    tiny.module.save_pretrained(folder)
    tiny.tokenizer.save_pretrained(folder)
    return folder
