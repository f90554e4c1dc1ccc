"""Reads the files of `conf/anchors`."""

from functools import cache
from pathlib import Path

import yaml
from pydantic import ValidationError

from harness.anchors.schema import Anchor, AnchorFile
from harness.conf_folder import CONF
from harness.errors import ConfigError
from harness.messages import in_one_line

FOLDER = CONF / "anchors"


@cache
def anchors() -> tuple[Anchor, ...]:
    """Return every figure of `conf/anchors`, in the order of files, tables and values.

    Raises:
        ConfigError: A file is not of the schema.
    """
    return tuple(anchor for file in sorted(FOLDER.glob("*.yaml")) for anchor in read(file))


def read(file: Path) -> tuple[Anchor, ...]:
    """Return the figures of one file.

    Raises:
        ConfigError: The file is not YAML, or not of the schema; the message names file and field.
    """
    try:
        found = AnchorFile.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")))
    except yaml.YAMLError as reason:
        raise ConfigError(
            f"{file} must be YAML, got: {in_one_line(reason)}; correct the file"
        ) from reason
    except ValidationError as reason:
        first = reason.errors()[0]
        field = ".".join(map(str, first["loc"])) or "the whole file"
        raise ConfigError(
            f"{file}: {field} must be as harness/anchors/schema.py says, got "
            f"{in_one_line(first['input'])}: {first['msg']}; correct the file"
        ) from reason
    return tuple(Anchor(table, value) for table in found.tables for value in table.values)
