"""Model folders, read anew by every test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.models import hub
from harness.models.source import LoadedModel


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    """Where a repository lies is looked up once a process; tests move it."""
    hub._locate_model.cache_clear()
    yield
    hub._locate_model.cache_clear()


@pytest.fixture
def folder(tiny: LoadedModel, tmp_path: Path) -> Path:
    """The tiny model, whose head is tied, as save_pretrained writes it."""
    folder = tmp_path / "model"
    tiny.module.save_pretrained(folder)
    tiny.tokenizer.save_pretrained(folder)
    return folder
