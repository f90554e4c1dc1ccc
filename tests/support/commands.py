"""Commands in processes of their own that need not import torch again.

`multiprocessing`'s fork server imports the libraries once; each command is a fork of it. A test that is about the
start of a command, or about variables that libraries read while they are imported, asks for a cold process.
"""

import os
import runpy
import signal
import subprocess
import sys
import tempfile
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from pathlib import Path

SERVER = get_context("forkserver")
SERVER.set_forkserver_preload(
    ["harness.cli.run", "harness.runner.run", "harness.report.contents", "harness.tasks.mmlu"]
)


def _command(
    module: str, arguments: list[str], cwd: str, environment: dict[str, str], streams: list[str]
) -> None:
    """Be `python -m MODULE ARGUMENTS`, with standard output and error in two files."""
    for number, stream in enumerate(streams, start=1):
        written = os.open(stream, os.O_WRONLY | os.O_APPEND)
        os.dup2(written, number)
        os.close(written)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", buffering=1, closefd=False)
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # the next one that asks reads TMPDIR of this environment
    os.chdir(cwd)
    sys.path.insert(0, cwd)  # as `python -m` does
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.modules.pop(module, None)  # it is run, not imported
    sys.argv = [module, *arguments]
    sys.orig_argv = [sys.executable, "-m", module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


class Command:
    """A running command, with the members of `subprocess.Popen` that tests use."""

    def __init__(
        self, module: str, arguments: tuple[str, ...], cwd: Path, environment: dict[str, str]
    ) -> None:
        self._said: tuple[str, str] | None = None
        self._files: list[Path] = []
        for _ in ("output", "errors"):
            opened, name = tempfile.mkstemp(dir="/tmp")
            os.close(opened)
            self._files.append(Path(name))
        names = [str(file) for file in self._files]
        self._process: ForkServerProcess = SERVER.Process(
            target=_command, args=(module, [*arguments], str(cwd), environment, names)
        )
        self.args = [module, *arguments]
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            assert timeout is not None
            raise subprocess.TimeoutExpired(self.args, timeout)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for the end; return what stands in both streams."""
        self.wait(timeout)
        if self._said is None:
            out, errors = (file.read_text(encoding="utf-8") for file in self._files)
            self._said = out, errors
            for file in self._files:
                file.unlink()
        return self._said


class WarmChildren:
    """Stands in for the module `subprocess` of a module that runs `python -m MODULE`."""

    TimeoutExpired = subprocess.TimeoutExpired

    def run(
        self,
        command: list[str],
        *,
        env: dict[str, str] | None = None,
        timeout: float | None = None,
        **_: object,
    ) -> subprocess.CompletedProcess[str]:
        executable, option, module, *arguments = command
        assert (executable, option) == (sys.executable, "-m")
        return run_warm(module, tuple(arguments), Path.cwd(), env or dict(os.environ), timeout)


def run_cold(
    module: str, arguments: tuple[str, ...], cwd: Path, environment: dict[str, str], timeout: float
) -> subprocess.CompletedProcess[str]:
    """Run a command in a process that starts from nothing."""
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment,
        timeout=timeout,
        check=False,
    )


def run_warm(
    module: str,
    arguments: tuple[str, ...],
    cwd: Path,
    environment: dict[str, str],
    timeout: float | None,
) -> subprocess.CompletedProcess[str]:
    """Run a command in a fork of a process that has imported the libraries."""
    command = Command(module, arguments, cwd, environment)
    try:
        out, errors = command.communicate(timeout)
    finally:
        command.kill()
    assert command.returncode is not None
    return subprocess.CompletedProcess(command.args, command.returncode, out, errors)
