"""What a command line asks for, on the tiny model; records of a study; logging as it was."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import builders
import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from items import with_items
from runs import MakeSpec
from studies import MakeRecord, record_maker

from harness import config
from harness.config import CONF
from harness.models import cache
from harness.results.record import Metric, RunRecord, SampleScore
from harness.results.store import ResultStore
from harness.runner.run import RunSpec


@pytest.fixture
def make_spec(tmp_path: Path) -> Iterator[MakeSpec]:
    """A function that builds what a command line asks for, on the tiny model; no model is held before and after the test."""

    def make(*overrides: str, results: str = "results") -> RunSpec:
        config.register()
        common = ["model=tiny", "data=embedded", "device=cpu", f"results_dir={tmp_path / results}"]
        typed = {word.partition("=")[0] for word in overrides}
        common = [word for word in common if word.partition("=")[0] not in typed]
        with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
            composed = compose("config", overrides=[*common, *overrides])
        return RunSpec.build(config.resolve(composed))

    cache._held.clear()
    yield make
    cache._held.clear()


@pytest.fixture
def _logs_as_before() -> Iterator[None]:
    """What makes log records is as before, whatever the test put in its place."""
    factory = logging.getLogRecordFactory()
    yield
    logging.setLogRecordFactory(factory)


@pytest.fixture
def make_record() -> MakeRecord:
    return record_maker()


@pytest.fixture
def parse_rate() -> Metric:
    """What a record of generated answers has beside its accuracy."""
    return builders.metric(
        "parse_rate", 0.9, unit="fraction", n=1000, n_of="question", higher_is_better=True
    )


@pytest.fixture
def file_records(tmp_path: Path) -> Callable[..., Path]:
    """Write records and their samples to a results folder and return it."""

    def write(*records: RunRecord, task: str = "t") -> Path:
        store = ResultStore(root=tmp_path / "results")
        for record in records:
            path = store.path(record, task=task, model="m", recipe="r")
            path.parent.mkdir(parents=True, exist_ok=True)
            # Not `store.write`, which waits for the disk.
            path.write_text(with_items(path, record).model_dump_json())
        return store.root

    return write


@pytest.fixture
def file_answers(make_record: MakeRecord, tmp_path: Path) -> Callable[..., Path]:
    """File a run of MMLU with its answers, and return the path of its record."""

    def write(
        correct: np.ndarray[Any, Any],
        folder: str = "results",
        recipe: str = "none",
        **facts: str,
    ) -> Path:
        store = ResultStore(root=tmp_path / folder)
        record = make_record(recipe, float(correct.mean()), **facts)
        assert record.task is not None
        path = store.path(record, task=record.task.name, model="m", recipe=recipe)
        samples = [
            SampleScore(id=f"q{i}", cluster=str(i % 57), scores={"correct": float(v)})
            for i, v in enumerate(correct)
        ]
        name, digest = store.write_samples(path, samples)
        update = {"samples_file": name, "samples_sha256": digest}
        store.write(path, record.model_copy(update=update))
        return path

    return write
