"""What a command line asks for, on the tiny model, and logging as it was."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from runs import MakeSpec

from harness import config
from harness.config import CONF
from harness.models import cache
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
