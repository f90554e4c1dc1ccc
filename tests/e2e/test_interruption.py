"""Runs that are killed, stopped, or started twice: nothing half done passes for a result."""

import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from harness.results.record import RunRecord, Status
from harness.results.store import ResultStore, Stored, read_samples

Child = subprocess.Popen[str]
Start = Callable[..., Child]
Records = Callable[[Path], list[RunRecord]]
Wait = Callable[[Path, Child], Stored]
JOB = ("+quant=int8_row", "task=perplexity", "model=tiny", "data=embedded", "task.window=64")
LONG = (*JOB, "task.limit_windows=800")
SHORT = (*JOB, "task.limit_windows=12")


def finish(child: Child) -> tuple[str, str]:
    out, errors = child.communicate(timeout=180)
    assert child.returncode == 0, errors
    return out, errors


def only_good(root: Path) -> tuple[RunRecord, pd.DataFrame]:
    [good] = [s for s in ResultStore(root=root).load()[0] if s.record.status is Status.OK]
    return good.record, read_samples(good)


def test_killed_run_is_repeated_and_gives_what_an_undisturbed_one_gives(
    start: Start, tmp_path: Path, records: Records, wait_until_running: Wait
) -> None:
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    finish(start(*LONG, f"results_dir={whole}"))

    child = start(*LONG, f"results_dir={killed}")
    running = wait_until_running(killed, child)
    time.sleep(0.3)
    child.kill()
    child.communicate()
    assert child.returncode == -signal.SIGKILL
    [left] = records(killed)
    assert left.status is Status.RUNNING, "it was killed too late for this test"
    assert left.metrics == ()
    assert left.samples_file is None

    out, errors = finish(start(*LONG, f"results_dir={killed}"))
    assert "skipped" not in out
    assert "waiting" not in errors, "the lock of a dead process is free"
    first, second = records(killed)
    assert first.run_id == running.record.run_id
    assert first.status is Status.ERROR
    assert "without closing the record" in str(first.error)
    assert second.status is Status.OK
    again, samples = only_good(killed)
    undisturbed, expected = only_good(whole)
    assert again.metrics == undisturbed.metrics
    assert again.config_hash == undisturbed.config_hash
    pd.testing.assert_frame_equal(samples, expected, check_exact=True)
    scratch = [file for file in killed.rglob("*") if file.name.startswith(".writing-")]
    assert scratch == []


@pytest.mark.parametrize(
    ("signum", "code", "words"),
    [
        (signal.SIGINT, 130, "interrupted (Ctrl-C)"),
        (signal.SIGTERM, 143, "terminated (SIGTERM)"),
    ],
)
def test_signal_is_recorded_and_the_command_can_be_repeated(
    signum: int,
    code: int,
    words: str,
    start: Start,
    tmp_path: Path,
    records: Records,
    wait_until_running: Wait,
) -> None:
    root = tmp_path / "results"
    child = start(*LONG)
    wait_until_running(root, child)
    if signum == signal.SIGINT:  # the other one comes while the model is loaded
        time.sleep(0.3)
    child.send_signal(signum)
    out, errors = child.communicate(timeout=60)
    assert child.returncode == code, errors
    assert out == ""
    last = errors.splitlines()[-1]
    assert last == f"{words}; what had finished is on file, repeat the command to go on"
    assert "Traceback" not in errors
    [cancelled] = records(root)
    assert cancelled.status is Status.CANCELLED
    assert cancelled.error == words
    assert cancelled.metrics == ()

    if signum == signal.SIGTERM:
        return
    finish(start(*LONG))
    assert [r.status for r in records(root)] == [Status.CANCELLED, Status.OK]


def test_two_processes_with_one_command_measure_once(
    start: Start, tmp_path: Path, records: Records
) -> None:
    children = [start(*SHORT), start(*SHORT)]
    outs = [finish(child)[0] for child in children]
    assert sorted("already on file, skipped" in out for out in outs) == [False, True]
    [record] = records(tmp_path / "results")
    assert record.status is Status.OK


@pytest.mark.parametrize(
    ("module", "signum", "code"),
    [
        ("harness.export", signal.SIGINT, 130),
        ("harness.report", signal.SIGTERM, 143),
        ("harness.tensor", signal.SIGINT, 130),
    ],
)
def test_signal_while_a_command_imports_its_libraries_ends_it_with_a_line(
    module: str, signum: int, code: int, start: Start, tmp_path: Path
) -> None:
    words = {
        "harness.export": ("+quant=int8_row", "model=tiny", "out=exported"),
        "harness.report": ("results",),
        "harness.tensor": ("formats",),
    }
    child = start(*words[module], module=module, cold=True)
    mapped, deadline = Path(f"/proc/{child.pid}/maps"), time.monotonic() + 60
    if not mapped.exists():
        pytest.skip("needs /proc to see what a process has imported")
    while "numpy" not in mapped.read_text() and child.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    child.send_signal(signum)
    _, errors = child.communicate(timeout=60)
    assert child.returncode == code, errors
    assert len(errors.splitlines()) == 1
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]
