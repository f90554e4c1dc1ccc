"""The formats of `conf/format`, by file name.

A name without a file is read as a QType descriptor (`harness.quant.qtype.descriptor`).
"""

from difflib import get_close_matches

import yaml

from harness.config import CONF, build, check_component
from harness.errors import ConfigError
from harness.quant.qtype.descriptor import QTypeFormat
from harness.quant.tensor import TensorFormat

FOLDER = CONF / "format"
ALL = "all"


def names() -> list[str]:
    """Return the names of all files."""
    return sorted(file.stem for file in FOLDER.glob("*.yaml"))


def load(name: str) -> TensorFormat:
    """Return the format of a file.

    Raises:
        ConfigError: The file does not describe a format.
    """
    text = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    key = f"conf/format/{name}"
    return check_component(build(yaml.safe_load(text), key), TensorFormat, key)


def description(name: str) -> str:
    """Return the comment at the top of a format's file, on one line."""
    lines = []
    for line in (FOLDER / f"{name}.yaml").read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# "))
    return " ".join(lines)


def find(text: str) -> dict[str, TensorFormat]:
    """Return name -> format, in the order of `text`: names and descriptors, separated by commas.

    `all` stands for all files.

    Raises:
        ConfigError: A name is neither, or differs from a file name only in capital letters:
            `mxfp4` is the format of the standard, the descriptor `MXFP4` has rules of its own.
    """
    known = names()
    wanted: list[str] = []
    for word in text.split(","):
        wanted += known if word.strip() == ALL else [word.strip()]
    return {name: load(name) if name in known else _described(name, known) for name in wanted}


def _described(text: str, known: list[str]) -> TensorFormat:
    problem = ""
    if text.lower() not in known:
        try:
            return QTypeFormat(text=text)
        except ValueError as reason:
            problem = f"\nas a descriptor: {reason}"
    close = get_close_matches(text.lower(), known, n=3)
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    raise ConfigError(
        f"--format must name files of conf/format or QType descriptors, "
        f"got {text!r}{hint}{problem}\nnames: {ALL}, {', '.join(known)}"
    )
