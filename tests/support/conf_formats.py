"""The tensor formats of `conf/format`, built once for all tests."""

from typing import Any

from looped import looped
from omegaconf import OmegaConf
from repository import ROOT

from harness.config import build

FILES = sorted((ROOT / "conf" / "format").glob("*.yaml"))


def build_format(name: str) -> Any:
    """Return the format of a file as a new object."""
    return build(OmegaConf.to_container(OmegaConf.load(FILES[0].with_stem(name))), "format")


FORMATS: dict[str, Any] = {file.stem: build_format(file.stem) for file in FILES}
"""Name of the file -> format."""
each_format = looped("fmt", FORMATS.values(), ids=lambda fmt: fmt.name)
