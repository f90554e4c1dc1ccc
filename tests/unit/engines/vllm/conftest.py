"""A checkpoint folder, a stand-in for vLLM, and runs of the tasks that use it."""

import copy
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from runs import MakeSpec
from vllm_stand_in import Measured, StandIn, install

from harness import config
from harness.config import CONF
from harness.models import cache
from harness.models.loaded import LoadedModel
from harness.results.store import read, read_samples
from harness.runner.run import RunSpec, run

COMMON = ("task.engine.dtype=float32", "model=tiny", "data=embedded", "device=cpu")
SMALL = {
    "mmlu_vllm": ("task.limit=8", "task.shots=0"),
    "throughput_vllm": ("task.prompt_tokens=8", "task.new_tokens=5", "task.batch_size=3"),
}
"""Sizes that make a task quick."""
FOLDER, RESULTS = "/folder", "/results"
"""Paths in the composed configuration that each test replaces by its own."""


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """A stand-in that a test may tell to do something wrong."""
    return install(monkeypatch)


@pytest.fixture(scope="package")
def folder(tmp_path_factory: pytest.TempPathFactory, _tiny: LoadedModel) -> Path:
    """The tiny model as a checkpoint."""
    path = tmp_path_factory.mktemp("checkpoint")
    _tiny.module.save_pretrained(path)
    _tiny.tokenizer.save_pretrained(path)
    return path


@functools.cache
def _composed(*overrides: str) -> dict[str, Any]:
    """Compose a configuration; that takes most of the time of a small run."""
    config.register()
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return config.resolve(compose("config", overrides=[*overrides]))


def spec_of(folder: Path, results: Path, task: str, *overrides: str) -> RunSpec:
    """Return what a command line asks for."""
    paths = (f"task.engine.path={FOLDER}", f"results_dir={RESULTS}")
    made = copy.deepcopy(_composed(f"task={task}", *paths, *COMMON, *SMALL[task], *overrides))
    made["results_dir"] = str(results)
    if made["task"]["engine"]["path"] == FOLDER:
        made["task"]["engine"]["path"] = str(folder)
    return RunSpec.build(made)


@pytest.fixture
def make_spec(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> MakeSpec:
    """Build a run of a task of vLLM; loading a model of the harness fails the test."""
    monkeypatch.setattr(cache, "load", lambda *_: pytest.fail("weights were loaded twice"))
    return functools.partial(spec_of, folder, tmp_path / "results")


@pytest.fixture(scope="package")
def measured(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Measured]:
    """Run a task with a stand-in that does nothing wrong, once for all tests."""

    @functools.cache
    def run_once(task: str) -> Measured:
        spec = spec_of(folder, tmp_path_factory.mktemp("results"), task)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cache, "load", lambda *_: pytest.fail("weights were loaded twice"))
            stand_in, path = install(patch), run(spec).path
        [stored] = spec.store.load()[0]
        return Measured(stand_in, read(path), read_samples(stored), path)

    return run_once
