"""The hold: one process at a time, and none that its holder's death leaves locked."""

import logging
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from filelock import BaseFileLock

from harness.results.store import ResultStore

HASH = "ab" * 32
TURNS = 15
WORKER = f"""
import sys, time
from pathlib import Path
from harness.results.store import ResultStore

root = Path(sys.argv[1])
for _ in range({TURNS}):
    with ResultStore(root=root).hold({HASH!r}):
        inside = root / "inside"
        inside.touch(exist_ok=False)
        with (root / "log").open("a") as stream:
            stream.write(sys.argv[2] + "\\n")
        time.sleep(0.002)
        inside.unlink()
"""
HOLDER = f"""
import sys, time
from pathlib import Path
from harness.results.store import ResultStore

with ResultStore(root=Path(sys.argv[1])).hold({HASH!r}):
    print("held", flush=True)
    time.sleep(300)
"""


def start(script: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def enters(store: ResultStore, config_hash: str = HASH) -> bool:
    """Say whether the hold is free, without waiting for ever if it is not."""
    entered = threading.Event()

    def take() -> None:
        with store.hold(config_hash):
            entered.set()

    threading.Thread(target=take, daemon=True).start()
    return entered.wait(timeout=10)


def test_six_processes_take_turns(tmp_path: Path) -> None:
    workers = [start(WORKER, str(tmp_path), str(number)) for number in range(6)]
    for worker in workers:
        _, errors = worker.communicate(timeout=90)
        assert worker.returncode == 0, errors
    turns = (tmp_path / "log").read_text().split()
    assert sorted(turns) == sorted(str(number) for number in range(6) for _ in range(TURNS))


def test_death_of_the_holder_frees_the_claim(tmp_path: Path) -> None:
    with start(HOLDER, str(tmp_path)) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
        finally:
            holder.send_signal(signal.SIGKILL)
            holder.communicate()
    assert enters(ResultStore(root=tmp_path))


def test_second_claim_waits_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = ResultStore(root=tmp_path)
    order = []

    def second() -> None:
        with store.hold(HASH):
            order.append("second")

    thread = threading.Thread(target=second, daemon=True)
    with caplog.at_level(logging.WARNING), store.hold(HASH):
        thread.start()
        deadline = time.monotonic() + 10
        while "waiting" not in caplog.text and time.monotonic() < deadline:
            time.sleep(0.01)
        assert "another process runs this configuration" in caplog.text
        order.append("first")
    thread.join(timeout=10)
    assert order == ["first", "second"]


def test_claims_of_other_configurations_do_not_wait(tmp_path: Path) -> None:
    store = ResultStore(root=tmp_path)
    with store.hold(HASH):
        assert enters(store, "cd" * 32)


def test_claim_is_freed_when_the_run_raises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Not by luck: a lock that is only collected would be freed too.
    monkeypatch.setattr(BaseFileLock, "__del__", lambda _self: None)
    store = ResultStore(root=tmp_path)
    with pytest.raises(KeyError), store.hold(HASH):
        raise KeyError("the run failed")
    assert enters(store)


def test_error_of_the_run_is_not_taken_for_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="of the run"), ResultStore(root=tmp_path).hold(HASH):
        raise OSError("of the run")
