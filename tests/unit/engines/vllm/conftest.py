"""A checkpoint folder with a bigram model for a stand-in of vLLM, which runs in a real worker process."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from repository import ROOT

from harness.engines.vllm.engine import VllmEngine
from harness.engines.vllm.installed import installed
from harness.engines.vllm.running import RunningVllm
from harness.models.loaded import LoadedModel

FAKE = ROOT / "tests" / "support" / "fake_vllm"
Start = Callable[..., AbstractContextManager[RunningVllm]]


@pytest.fixture(scope="package")
def logits(_tiny: LoadedModel) -> np.ndarray[Any, Any]:
    """Logits of the next token by the token before, with ties, `[V, V]`."""
    size = _tiny.vocab_size
    found = np.random.default_rng(0).integers(-12, 12, (size, size)) / 4.0
    # Behind token 101 comes 100, and behind that the end of the text.
    found[101, 100] = found[100, _tiny.tokenizer.eos_token_id] = 8.0
    return found


@pytest.fixture(scope="package")
def folder(
    tmp_path_factory: pytest.TempPathFactory, _tiny: LoadedModel, logits: np.ndarray[Any, Any]
) -> Path:
    """Tokenizer and configuration of the tiny model, and the bigram model."""
    path = tmp_path_factory.mktemp("checkpoint")
    _tiny.module.save_pretrained(path)
    _tiny.tokenizer.save_pretrained(path)
    texts = [_tiny.tokenizer.decode([token]) for token in range(len(logits))]
    found = {"logits": logits.tolist(), "texts": texts, "eos": _tiny.tokenizer.eos_token_id}
    (path / "bigram.json").write_text(json.dumps(found))
    return path


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Install the stand-in, and return what tells it to do something wrong."""
    monkeypatch.setenv("PYTHONPATH", str(FAKE))
    monkeypatch.setenv("FAKE_VLLM_LOG", str(tmp_path / "asked.jsonl"))
    installed.cache_clear()
    yield lambda **what: monkeypatch.setenv("FAKE_VLLM", json.dumps(what))
    installed.cache_clear()


@pytest.fixture
def start(told: Callable[..., None], folder: Path) -> Start:
    """Start the engine; takes fields of `VllmEngine`."""

    def started(**fields: Any) -> AbstractContextManager[RunningVllm]:
        given = {"path": str(folder), "dtype": "float32", "python": sys.executable} | fields
        return VllmEngine(**given).start(None, torch.device("cpu"))

    return started


@pytest.fixture
def asked(tmp_path: Path) -> Callable[[str], list[Any]]:
    """Return what the stand-in was asked: arguments of each `load`, or sampling of each `run`."""

    def of(kind: str) -> list[Any]:
        path = tmp_path / "asked.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [found[kind] for line in lines if kind in (found := json.loads(line))]

    return of
