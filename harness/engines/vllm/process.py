"""Start the worker, ask it, and end it.

The worker leads a process group of its own. So Ctrl-C reaches only this process, which ends the
whole group: the worker and the processes that vLLM started. If this process is killed, the worker's
standard input closes, and the worker ends its group by itself.
"""

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from harness.errors import ConfigError, HarnessError, ModelError

WORKER = Path(__file__).with_name("worker.py")
ENVIRONMENT = {
    # Keeps vLLM's scheduler in the worker, so that a batch is scheduled as one.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    # Otherwise Python would look for packages in the folder of `worker.py` first.
    "PYTHONSAFEPATH": "1",
}
"""Environment variables of the worker; values that the user has set take precedence."""
LAST_LINES = 15
"""Lines of a worker's messages that are shown when it dies."""
LAST_BYTES = 4000
"""Bytes at the end of a worker's messages that those lines are taken from."""
SHOWN_CHARACTERS = 200
"""Characters of a line that is no answer that are shown."""
GRACE_S = 20.0
"""Time that an idle worker gets to end by itself [s]."""


class Refused(HarnessError):  # noqa: N818 - named for what the worker did
    """The worker answered with an error of vLLM."""


class WorkerProcess:
    """A running worker."""

    def __init__(self, process: "subprocess.Popen[str]", messages: IO[bytes]) -> None:
        """Take a started process and the file that it writes messages to."""
        self._process = process
        self._messages = messages

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Send a request and return the answer.

        Raises:
            Refused: The answer is an error.
            ModelError: The worker died, or something else than an answer came.
        """
        with suppress(BrokenPipeError):  # a dead worker: `read` says so
            assert self._process.stdin is not None  # noqa: S101 - a pipe
            self._process.stdin.write(f"{json.dumps(request)}\n")
            self._process.stdin.flush()
        return self.read()

    def read(self) -> dict[str, Any]:
        """Return the next answer.

        Raises:
            Refused: The answer is an error.
            ModelError: The worker died.
        """
        assert self._process.stdout is not None  # noqa: S101 - a pipe
        line = self._process.stdout.readline()
        if not line.endswith("\n"):
            raise ModelError(
                "the vLLM worker must run until the last answer, got exit status "
                f"{self._process.wait()}; the last lines that it wrote:\n{self._last_lines()}"
            )
        answer = _answer(line)
        if answer is None:
            raise ModelError(
                "the vLLM worker must answer with an object of JSON, got "
                f"{line[:SHOWN_CHARACTERS]!r}; engine.python must be a Python, not a script that "
                "prints"
            )
        if "error" in answer:
            raise Refused(answer["error"])
        return answer

    def close(self) -> None:
        """Tell an idle worker to end, and wait for it."""
        with suppress(BrokenPipeError):
            assert self._process.stdin is not None  # noqa: S101 - a pipe
            self._process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(GRACE_S)

    def kill(self) -> None:
        """End the whole process group at once."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        # `Popen.__exit__` closes the pipes, and must not find unsent text in them.
        with suppress(BrokenPipeError), self._process:
            pass

    def _last_lines(self) -> str:
        size = self._messages.seek(0, os.SEEK_END)
        self._messages.seek(max(0, size - LAST_BYTES))
        lines = self._messages.read().decode(errors="replace").splitlines()
        return "\n".join(lines[-LAST_LINES:])


def _answer(line: str) -> dict[str, Any] | None:
    """Return a line as an answer; None if it is none."""
    try:
        answer = json.loads(line)
    except ValueError:
        return None
    return answer if isinstance(answer, dict) else None


@contextmanager
def started(python: str) -> Iterator[WorkerProcess]:
    """Context manager: a worker in a Python; it has not imported vLLM yet.

    Raises:
        ConfigError: The Python cannot be started.
    """
    with tempfile.TemporaryFile() as messages:
        try:
            process = subprocess.Popen(
                [python, str(WORKER)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=messages,
                encoding="utf-8",
                errors="replace",
                env=ENVIRONMENT | os.environ,
                start_new_session=True,
            )
        except OSError as reason:
            raise ConfigError(
                f"engine.python must be a Python that starts, got {python}: {reason.strerror}"
            ) from reason
        worker = WorkerProcess(process, messages)
        try:
            yield worker
            worker.close()
        finally:
            worker.kill()
