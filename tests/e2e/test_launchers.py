"""Sweeps under Hydra's launchers, in real processes: the same rows, exit code, records and resume under each."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from repository import ROOT

from harness.cli import run as cli
from harness.results.record import RunRecord, Status

Cli = Callable[..., subprocess.CompletedProcess[str]]
Records = Callable[[Path], list[RunRecord]]
Start = Callable[..., subprocess.Popen[str]]

JOBLIB = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
SUBMITIT = ("hydra/launcher=submitit_local",)
ELSEWHERE = pytest.mark.parametrize("launcher", [JOBLIB, SUBMITIT], ids=["joblib", "submitit"])
EVERYWHERE = pytest.mark.parametrize(
    "launcher",
    [
        JOBLIB,  # each of its workers takes seconds to start
        pytest.param((), marks=pytest.mark.slow),
        pytest.param(SUBMITIT, marks=pytest.mark.slow),
    ],
    ids=["joblib", "basic", "submitit"],
)
TINY = ("model=tiny", "data=embedded", "device=cpu", "task=perplexity", "task.window=64")
LONG_S = 300.0


def rows(errors: str) -> dict[str, str]:
    """Recipe -> ending of the summary."""
    cells = [[part.strip() for part in line.split("│")] for line in errors.splitlines()]
    return {row[2].removeprefix("+quant="): row[1] for row in cells if len(row) > 3 and row[1]}


@EVERYWHERE
def test_exit_code_rows_commands_and_resume(
    launcher: tuple[str, ...], cli: Cli, tmp_path: Path, records: Records
) -> None:
    own = tmp_path / "own" / "quant"
    own.mkdir(parents=True)
    (own / "bad.yaml").write_text("defaults: [int8_row, _self_]\nskip: 3\n")
    # No CPU multiplies MX formats by torchao.
    quant = "+quant=none,bad,torchao_mxfp4"
    typed = ("--config-dir", str(own.parent), "-m", *launcher, quant, *TINY, "task.limit_windows=4")
    done = cli(*typed, timeout=LONG_S, cold=True)
    assert rows(done.stderr) == {"none": "ok", "bad": "FAILED", "torchao_mxfp4": "unsupported"}
    assert "3 jobs, 1 failed, 1 not supported here" in done.stderr
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    [line] = done.stdout.splitlines()
    assert line.startswith("none perplexity: perplexity ")
    assert done.stderr.count("ERROR ConfigError: quant.skip must be") == 1, "under each, once"
    filed = records(tmp_path / "results")
    assert {record.status for record in filed} == {Status.OK, Status.UNSUPPORTED}
    for record in filed:
        assert record.command == " ".join(["python -m harness", *typed])

    good = [word.replace("none,bad", "none") for word in typed]
    again = cli(*good, timeout=LONG_S, cold=True)
    assert again.returncode == 0, again.stderr
    assert rows(again.stderr) == {"none": "ok", "torchao_mxfp4": "unsupported"}
    assert "already on file, skipped" in again.stdout
    assert not list((tmp_path / "results" / ".hydra").rglob("*.started"))


def begin(start: Start, tmp_path: Path, launcher: tuple[str, ...]) -> subprocess.Popen[str]:
    """Start a sweep of three long jobs and return when two of them measure."""
    words = ("-m", *launcher, "+quant=none,int8_row,fp8_row", *TINY, "task.limit_windows=1440")
    child = start(*words, own_group=True)
    deadline = time.monotonic() + LONG_S
    files = tmp_path / "results" / "perplexity" / "tiny"
    while len(list(files.glob("*.json"))) < (2 if launcher else 1):
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return child


def running(tmp_path: Path) -> list[int]:
    files = (tmp_path / "results" / ".hydra" / "jobs").glob("*/*.started")
    return [json.loads(file.read_text())[1] for file in sorted(files)]


@pytest.mark.slow
@ELSEWHERE
def test_killed_worker_has_a_row_and_the_others_finish(
    launcher: tuple[str, ...], start: Start, tmp_path: Path, records: Records
) -> None:
    child = begin(start, tmp_path, launcher)
    os.kill(running(tmp_path)[0], signal.SIGKILL)
    _, errors = child.communicate(timeout=LONG_S)
    assert child.returncode == 1
    assert sorted(rows(errors).values()) == ["FAILED", "ok", "ok"]
    assert "the process of the job was killed (SIGKILL" in errors
    assert "Traceback" not in errors
    good = [r.quant.name for r in records(tmp_path / "results") if r.quant and r.metrics]
    assert len(set(good)) == 2


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("launcher", [(), JOBLIB, SUBMITIT], ids=["basic", "joblib", "submitit"])
def test_terminal_that_sends_a_signal_to_all_processes_ends_a_sweep_in_order(
    launcher: tuple[str, ...],
    signum: signal.Signals,
    start: Start,
    tmp_path: Path,
    records: Records,
) -> None:
    child = begin(start, tmp_path, launcher)
    os.killpg(child.pid, signum)
    _, errors = child.communicate(timeout=LONG_S)
    assert child.returncode == 128 + signum, errors
    endings = set(rows(errors).values())
    assert "cancelled" in endings
    assert endings <= {"ok", "cancelled", "not run"}
    assert len(rows(errors)) == 3
    assert "Traceback" not in errors
    filed = records(tmp_path / "results")
    assert {record.status for record in filed} <= {Status.CANCELLED, Status.OK}
    assert {r.error for r in filed if r.status is Status.CANCELLED} <= {
        "interrupted (Ctrl-C)",
        "terminated (SIGTERM)",
    }


def test_other_sweeper_is_refused_because_it_loses_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["-m", "hydra/sweeper=basic", "+quant=none", *TINY, f"results_dir={tmp_path}"]
    monkeypatch.setattr(sys, "argv", ["harness", *words])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 1
    assert "hydra/sweeper must be collecting, got basic; leave it out" in capsys.readouterr().err
    assert not list(tmp_path.glob("*/*/*.json"))


def test_hydra_finds_the_sweeper_and_a_wheel_has_it() -> None:
    import tomllib

    root = ROOT
    names = {found.__name__ for found in Plugins.instance().discover(Sweeper)}
    assert "CollectingSweeper" in names
    wheel = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    assert set(wheel["targets"]["wheel"]["packages"]) == {"harness", "hydra_plugins"}
    assert not (root / "hydra_plugins" / "__init__.py").exists(), "others have plugins there too"
