"""Locks that cannot be made; that they exclude is tested with the claims of the store."""

import errno
import logging
import os
import re
import threading
from pathlib import Path

import pytest
from filelock import BaseFileLock

from harness.errors import OutputError
from harness.output.lock import locked


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        (NotImplementedError("FileSystem does not appear to support flock"), errno.ENOTSUP),
        (OSError(errno.EROFS, os.strerror(errno.EROFS)), errno.EROFS),
    ],
)
def test_a_file_system_without_locks_is_named(
    reason: Exception, said: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise reason

    monkeypatch.setattr(BaseFileLock, "acquire", refuse)
    message = (
        f"results_dir must be a folder that can be written, got {tmp_path}: {os.strerror(said)}"
    )
    with (
        pytest.raises(OutputError, match=re.escape(message)),
        locked(tmp_path / "new" / "x.lock", "results_dir", of=tmp_path, busy=""),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_the_lock_of_another_user_is_named(unprivileged: Path) -> None:
    file = unprivileged / "x.lock"
    file.touch()
    file.chmod(0o444)
    with (
        pytest.raises(
            OutputError, match=r"TMPDIR must be a folder .*Permission denied; name another"
        ),
        locked(file, "TMPDIR", of=unprivileged, busy="", mode=0o666),
    ):
        pass


def test_waiting_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    entered = threading.Event()

    def second() -> None:
        with locked(tmp_path / "x.lock", "out", of=tmp_path, busy="busy; waiting"):
            entered.set()

    thread = threading.Thread(target=second)
    with (
        caplog.at_level(logging.WARNING),
        locked(tmp_path / "x.lock", "out", of=tmp_path, busy="never said"),
    ):
        thread.start()
        while "busy; waiting" not in caplog.text:
            assert thread.is_alive()
        assert not entered.is_set()
    thread.join(timeout=30)
    assert entered.is_set()
    assert "never said" not in caplog.text
