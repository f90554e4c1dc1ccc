"""Worker processes: how they answer, and how they end."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.engines.vllm.process import Refused, started
from harness.errors import ConfigError, ModelError

Told = Callable[..., None]
PROMPT = {"ids": [65, 66], "sampling": {"temperature": 0.0, "max_tokens": 2}, "first": 0}


def test_answers_stand_apart_from_what_vllm_prints(told: Told, folder: Path) -> None:
    with started(sys.executable) as worker:
        assert worker.read() == {"version": "0.0.fake", "device": "cpu"}
        assert worker.ask({"load": {"model": str(folder)}}) == {"loaded": True}
        [output] = worker.ask({"run": [PROMPT]})["outputs"]
        assert (output["ids"], len(output["tokens"])) == ([65, 66], 2)


def test_error_is_an_answer_and_the_worker_goes_on(told: Told, folder: Path) -> None:
    with started(sys.executable) as worker:
        worker.read()
        with pytest.raises(Refused, match=r"TypeError: .*missing.*'model'"):
            worker.ask({"load": {}})
        assert worker.ask({"load": {"model": str(folder)}}) == {"loaded": True}


def test_worker_that_dies_says_its_last_lines(told: Told, folder: Path) -> None:
    told(die=True)
    with started(sys.executable) as worker:
        worker.read()
        worker.ask({"load": {"model": str(folder)}})
        with pytest.raises(ModelError, match=r"exit status 7; the last lines(.|\n)*a last word"):
            worker.ask({"run": [PROMPT]})
        with pytest.raises(ModelError, match="exit status 7"):  # the pipe is broken now
            worker.ask({"run": [PROMPT]})


def test_python_that_is_none_is_a_configuration_error(tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigError, match=r"engine\.python must be a Python .*nowhere"),
        started(str(tmp_path / "nowhere")),
    ):
        pass


def test_python_without_vllm_is_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    with started(sys.executable) as worker, pytest.raises(Refused, match="No module named 'vllm'"):
        worker.read()


@pytest.mark.parametrize("line", ["a banner", "[1, 2]", "3", r"\377\376{}"])
def test_line_that_is_no_answer_is_shown(tmp_path: Path, line: str) -> None:
    script = tmp_path / "python"
    script.write_text(f"#!/bin/sh\nprintf '{line}\\n'\nsleep 60\n", encoding="utf-8")
    script.chmod(0o755)
    with (
        pytest.raises(
            ModelError, match=r"must answer with an object of JSON, got '.*engine\.python"
        ),
        started(str(script)) as worker,
    ):
        worker.read()


def test_interrupt_ends_a_busy_worker(
    told: Told, folder: Path, asked: Callable[[str], list[Any]]
) -> None:
    told(sleep=60)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 1.0)
    try:
        with pytest.raises(KeyboardInterrupt):
            ask_once(folder)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    [pid] = asked("sleeps")
    assert is_gone(pid)


def test_busy_worker_dies_with_its_parent(
    told: Told, folder: Path, asked: Callable[[str], list[Any]]
) -> None:
    told(sleep=60)
    parent = f"""
from harness.engines.vllm.process import started
with started({sys.executable!r}) as worker:
    worker.read()
    worker.ask({{"load": {{"model": {str(folder)!r}}}}})
    worker.ask({{"run": [{PROMPT!r}]}})
"""
    path = os.pathsep.join([os.environ["PYTHONPATH"], str(Path(__file__).parents[4])])
    with subprocess.Popen(
        [sys.executable, "-c", parent], env=os.environ | {"PYTHONPATH": path}
    ) as process:
        pids: list[int] = []
        while not pids and process.poll() is None:
            time.sleep(0.05)
            pids = asked("sleeps")
        process.kill()
    assert is_gone(pids[0])


def ask_once(folder: Path) -> None:
    with started(sys.executable) as worker:
        worker.read()
        worker.ask({"load": {"model": str(folder)}})
        worker.ask({"run": [PROMPT]})


def is_gone(pid: int) -> bool:
    """Wait up to ten seconds for the end of a process."""
    for _ in range(200):
        state = Path(f"/proc/{pid}/stat")
        if not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.05)
    return False
