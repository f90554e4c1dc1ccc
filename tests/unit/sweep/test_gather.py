"""A sweep under launchers: in this process, a process a job, a pool that dies with one worker."""

import multiprocessing
import os
import pickle
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, OmegaConf

from harness import signals
from harness.cli import run as cli
from harness.display.summary import Ending, JobResult
from harness.errors import OutputError
from harness.sweep import gather, watch
from harness.sweep.job import Job

DEADLINE_S = 20.0
LOGGING = {
    "version": 1,
    "root": {"level": "WARNING"},
    "handlers": {
        "file": {
            "class": "logging.FileHandler",
            "filename": "${hydra.runtime.output_dir}/harness.log",
            "delay": True,
        }
    },
    "disable_existing_loggers": False,
}
"""With a file, like Hydra's default."""


def act(cfg: DictConfig) -> JobResult:
    """Do what the overrides of a job say."""
    overrides = tuple(HydraConfig.get().overrides.task)
    folder, word = Path(cfg.folder), overrides[0].partition("=")[2]
    with (folder / f"ran-{word}").open("a") as file:
        file.write("x")
    if word == "die":
        wait_for((folder / "slept").exists)  # while another job runs
        os.kill(os.getpid(), signal.SIGKILL)
    if word.startswith("slow") and not (folder / "slept").exists():
        (folder / "slept").touch()
        time.sleep(cfg.seconds)
    if word == "interrupted":
        raise KeyboardInterrupt
    if word == "lost":
        raise ImportError("no such library on that machine")
    endings = {"fail": Ending.FAILED, "cannot": Ending.UNSUPPORTED}
    ending = endings.get(word, Ending.OK)
    said = f"{cfg.device} {shlex.join(sys.orig_argv)}"
    line = f"line of {word}" if ending is Ending.OK else ""
    return JobResult(overrides=overrides, ending=ending, text=said, line=line)


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Local:
    """Runs jobs one after another in this process, as Hydra's `basic` does."""

    target = gather.IN_THIS_PROCESS

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def setup(self, *, hydra_context: object, task_function: Job, config: DictConfig) -> None:
        self.task = task_function

    def call(self, number: int, overrides: Sequence[str]) -> JobReturn:
        cfg = OmegaConf.create({"hydra": OmegaConf.structured(HydraConf), **self.settings})
        assert isinstance(cfg, DictConfig)
        cfg.hydra.job.num, cfg.hydra.overrides.task = number, list(overrides)
        HydraConfig.instance().set_config(cfg)
        returned = JobReturn(overrides=overrides)
        try:
            returned.return_value = self.task(cfg)
            returned.status = JobStatus.COMPLETED
        except Exception as reason:
            returned.return_value, returned.status = reason, JobStatus.FAILED
        return returned

    def launch(self, job_overrides: list[list[str]], initial_job_idx: int) -> list[JobReturn]:
        return [self.call(initial_job_idx + i, words) for i, words in enumerate(job_overrides)]


class Forks(Local):
    """Runs each job in a process of its own; at the end says that one was lost, if one was."""

    target = "some.Launcher"
    at_once = 2
    fragile = False
    """A death ends all that run."""
    hasty = False
    """A death is told at once, while others run on."""

    def launch(self, job_overrides: list[list[str]], initial_job_idx: int) -> list[JobReturn]:
        waiting, running = list(enumerate(job_overrides, start=initial_job_idx)), {}
        ended: dict[int, JobReturn] = {}
        while waiting or running:
            while waiting and len(running) < self.at_once:
                number, overrides = waiting.pop(0)
                ours, theirs = multiprocessing.Pipe(duplex=False)
                if (child := os.fork()) == 0:
                    sys.orig_argv = ["python", "worker"]
                    try:
                        theirs.send_bytes(pickle.dumps(self.call(number, overrides)))
                    finally:
                        os._exit(0)
                theirs.close()
                running[number] = child, ours
            for number, (child, pipe) in list(running.items()):
                if not pipe.poll(0.01):
                    continue
                try:
                    ended[number] = pickle.loads(pipe.recv_bytes())  # noqa: S301 - our own child
                except EOFError:
                    if self.hasty:
                        raise RuntimeError("a job has not produced any output") from None
                    if self.fragile:
                        self.end(running)
                        raise RuntimeError("exit codes of the workers: {SIGKILL(-9)}") from None
                os.waitpid(child, 0)
                del running[number]
        if len(ended) < len(job_overrides):
            raise RuntimeError("a job has not produced any output")
        return [ended[number] for number in sorted(ended)]

    def end(self, running: dict[int, tuple[int, Any]]) -> None:
        time.sleep(0.1)  # joblib's loky looks for the children of each worker first
        for child, _ in running.values():
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


class Pool(Forks):
    """As joblib's."""

    fragile = True


class Hasty(Forks):
    """As submitit's, which asks for one result after another."""

    hasty = True


class Sequential(Local):
    """As joblib's with one job at once: no process but this one."""

    target = "some.Launcher"


class Single(Forks):
    """One process after another."""

    at_once = 1


class Broken(Forks):
    """Cannot start anything."""

    launched = 0

    def launch(self, job_overrides: list[list[str]], initial_job_idx: int) -> list[JobReturn]:
        self.launched += 1
        raise OSError("sbatch is not there")


Run = Callable[..., list[JobResult]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Run jobs that are named by what they do, and return their rows."""
    monkeypatch.setattr(watch, "POLL_S", 0.02)
    monkeypatch.setattr(signals, "POLL_S", 0.02)
    handlers = {number: signal.getsignal(number) for number in signals.STOPPING}
    before = Singleton.get_state()

    def call(
        kind: type[Local] | Local,
        *words: str,
        batches: int = 1,
        logging: dict[str, Any] | None = None,
        **settings: Any,
    ) -> list[JobResult]:
        settings = {"folder": str(tmp_path), "device": "cpu", "seconds": 0, **settings}
        launcher = kind if isinstance(kind, Local) else kind(**settings)
        config = OmegaConf.create(
            {
                "results_dir": str(tmp_path / "results"),
                "hydra": {
                    "runtime": {"output_dir": "???"},  # known in jobs alone
                    "launcher": {"_target_": launcher.target},
                    "sweep": {"dir": str(tmp_path / "results" / ".hydra")},
                    "job_logging": logging or {"version": 1, "root": None},
                    "verbose": False,
                },
            }
        )
        jobs = [[f"do={word}", "hydra.x=1", "model=tiny"] for word in words]
        size = len(jobs) // batches
        gather.results.clear()
        chunks = [jobs[i : i + size] for i in range(0, len(jobs), size)]
        gather.run(launcher, act, None, config, chunks)  # type: ignore[arg-type]
        return list(gather.results)

    yield call
    gather.results.clear()
    Singleton.set_state(before)
    signals._received.clear()
    for number, handler in handlers.items():
        signal.signal(number, handler)
    assert not any((tmp_path / "results").rglob("jobs")), "the journal is gone"


def endings(rows: Sequence[JobResult]) -> dict[str, str]:
    return {row.overrides[0].partition("=")[2]: str(row.ending) for row in rows}


def times(tmp_path: Path, word: str) -> int:
    return len((tmp_path / f"ran-{word}").read_text())


@pytest.mark.parametrize("kind", [Local, Sequential, Forks, Pool])
def test_rows_lines_and_errors_are_the_same_under_every_launcher(
    kind: type[Local],
    run: Run,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    typed = ["python", "-m", "harness", "-m", "task.subjects=[a, b]"]
    monkeypatch.setattr(sys, "orig_argv", typed)
    for batches in (1, 3):
        caplog.clear()
        rows = run(kind, "a", "fail", "cannot", batches=batches)
        assert endings(rows) == {"a": "ok", "fail": "FAILED", "cannot": "unsupported"}
        assert {row.text for row in rows} == {f"cpu {shlex.join(typed)}"}
        assert capfd.readouterr().out == "line of a\n"
        assert len([r for r in caplog.records if r.levelname == "ERROR"]) == 2


def test_job_whose_process_is_killed_has_a_row_and_the_others_of_its_pool_finish(
    run: Run, tmp_path: Path
) -> None:
    rows = run(Pool, "slow", "die", "b", "c", seconds=60)
    assert endings(rows) == {"slow": "ok", "die": "FAILED", "b": "ok", "c": "ok"}
    assert "killed (SIGKILL)" in rows[1].text
    assert rows[1].overrides == ("do=die", "model=tiny"), "as other rows name their jobs"
    assert [times(tmp_path, word) for word in ("slow", "die", "b", "c")] == [2, 1, 1, 1]


@pytest.mark.parametrize("kind", [Forks, Hasty])
def test_job_whose_process_is_killed_alone_takes_none_with_it(
    kind: type[Local], run: Run, tmp_path: Path
) -> None:
    rows = run(kind, "die", "slow", "b", seconds=0.3)
    assert endings(rows) == {"die": "FAILED", "slow": "ok", "b": "ok"}
    assert "killed (SIGKILL, or a crash)" in rows[0].text
    assert [times(tmp_path, word) for word in ("slow", "die", "b")] == [1, 1, 1]


def test_launcher_that_starts_nothing_gives_a_row_each_and_is_asked_once(run: Run) -> None:
    launcher = Broken()
    rows = run(launcher, "a", "b")
    assert endings(rows) == {"a": "FAILED", "b": "FAILED"}
    assert all("OSError: sbatch is not there" in row.text for row in rows)
    assert launcher.launched == 1


def test_error_outside_of_a_job_is_a_row(run: Run) -> None:
    rows = run(Forks, "lost", "a")
    assert endings(rows) == {"lost": "FAILED", "a": "ok"}
    assert "ImportError: no such library on that machine" in rows[0].text


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("kind", [Single, Sequential])
def test_signal_cancels_what_runs_under_a_launcher_and_nothing_else_starts(
    kind: type[Local], signum: signal.Signals, run: Run, tmp_path: Path
) -> None:
    def send() -> None:
        wait_for((tmp_path / "slept").exists)
        if kind is Single:
            os.kill(os.getpid(), signum)
        else:
            # The job sleeps in the main thread. The kernel may give a signal of the process to another
            # thread, which would not end the sleep.
            signal.pthread_kill(threading.main_thread().ident or 0, signum)

    threading.Thread(target=send).start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt) as caught:
        run(kind, "a", "slow", "b", "c", seconds=60)
    assert time.monotonic() - began < DEADLINE_S
    assert signals.exit_code(caught.value) == 128 + signum
    wanted = {"a": "ok", "slow": "cancelled", "b": "not run", "c": "not run"}
    assert endings(gather.results) == wanted
    assert {row.text for row in gather.results[1:]} == {signals.WORDS[signum]}
    assert not (tmp_path / "ran-b").exists()


def test_worker_that_is_told_to_stop_cancels_its_job_alone(run: Run, tmp_path: Path) -> None:
    def send() -> None:
        wait_for((tmp_path / "slept").exists)
        [started] = (tmp_path / "results" / ".hydra" / "jobs").glob("*/1.started")
        os.kill(int(started.read_text().rpartition(",")[2].strip(" ]")), signal.SIGTERM)

    threading.Thread(target=send).start()
    rows = run(Single, "a", "slow", "b", seconds=60)
    assert endings(rows) == {"a": "ok", "slow": "cancelled", "b": "ok"}
    assert rows[1].text == "terminated (SIGTERM)"


def test_interrupted_job_of_this_process_ends_the_sweep_and_finished_ones_are_kept(
    run: Run, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(Local, "a", "interrupted", "b", "c", batches=2)
    wanted = {"a": "ok", "interrupted": "cancelled", "b": "not run", "c": "not run"}
    assert endings(gather.results) == wanted
    assert not (tmp_path / "ran-b").exists()


def test_jobs_beside_one_another_take_the_gpus_in_turn(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    rows = run(Forks, "a", "b", "c", "d", device="auto")
    assert [row.text.split()[0] for row in rows] == ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]
    rows = run(Forks, "a", "b", device="cuda:1")
    assert [row.text.split()[0] for row in rows] == ["cuda:1", "cuda:1"]
    rows = run(Local, "a", "b", device="auto")
    assert [row.text.split()[0] for row in rows] == ["auto", "auto"], "one after another"


def test_jobs_find_no_gpu_where_there_is_none(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    [row] = run(Forks, "a", device="auto")
    assert row.text.split()[0] == "cpu"


def test_a_log_file_is_no_obstacle_though_its_folder_is_known_in_jobs_alone(run: Run) -> None:
    [row] = run(Local, "fine", logging=LOGGING)
    assert row.ending is Ending.OK


def test_a_sweep_that_cannot_be_written_says_so_as_a_run_does(run: Run, tmp_path: Path) -> None:
    (tmp_path / "results").write_text("a file")
    with pytest.raises(
        OutputError,
        match=r"^results_dir must be a folder that can be written, got .*; name another",
    ):
        run(Local, "fine")


def test_function_of_a_job_is_sent_by_name_not_with_its_globals() -> None:
    import cloudpickle

    for dumps in (pickle.dumps, cloudpickle.dumps):
        sent = dumps(cli.run_job)
        assert len(sent) < 100
        assert pickle.loads(sent) is cli.run_job  # noqa: S301 - just made
