"""Composing the configuration as the command line does, without a process of its own."""

from collections.abc import Callable
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from repository import CONF

from harness.config import register, resolve

Compose = Callable[..., dict[str, Any]]


@pytest.fixture
def composed() -> Compose:
    """Return plain configuration data for some overrides, on the tiny model and embedded data."""

    def call(*overrides: str) -> dict[str, Any]:
        register()
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return resolve(compose("config", ["model=tiny", "data=embedded", *overrides]))

    return call
