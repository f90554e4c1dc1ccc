"""Files by which the jobs of a sweep report to the process that waits for them, under any launcher.

    <number>.started    process and machine of a job that runs, or ran
    <number>.json       its result
    stop                the signal that stopped the sweep

A launcher returns the results of all jobs at its end, and none if it fails. A file is there as soon as its job ends, and stays if the launcher fails.
"""

import json
import os
import shutil
import socket
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from harness.summary import JobResult

RESULT = TypeAdapter(JobResult)


@dataclass(frozen=True, kw_only=True, slots=True)
class Journal:
    """The folder of one sweep, which its jobs and the waiting process both see."""

    folder: Path

    def start(self, number: int) -> None:
        """Note that this process runs a job."""
        self._write(f"{number}.started", json.dumps([socket.gethostname(), os.getpid()]))

    def finish(self, number: int, result: JobResult) -> None:
        """Note the result of a job."""
        self._write(f"{number}.json", RESULT.dump_json(result).decode())

    def stop(self, signum: int) -> None:
        """Ask running jobs to stop, and later jobs not to start."""
        self._write("stop", str(signum))

    def stopped(self) -> int | None:
        """Return the signal that stopped the sweep, or None."""
        try:
            return int((self.folder / "stop").read_text(encoding="utf-8"))
        except OSError:
            return None

    def started(self, without: Container[int] = ()) -> Iterator[tuple[int, str, int]]:
        """Yield number, machine and process of every started job, except the jobs `without`."""
        for file in self.folder.glob("*.started"):
            if int(file.stem) not in without:
                host, process = json.loads(file.read_text(encoding="utf-8"))
                yield int(file.stem), host, process

    def forget(self, number: int) -> None:
        """Remove the note that a job was started, before it is launched again."""
        (self.folder / f"{number}.started").unlink(missing_ok=True)

    def result(self, number: int) -> JobResult | None:
        """Return the result of a job, or None while there is none."""
        try:
            return RESULT.validate_json((self.folder / f"{number}.json").read_bytes())
        except OSError:
            return None

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _write(self, name: str, text: str) -> None:
        scratch = self.folder / f".{name}.{os.getpid()}"
        scratch.write_text(text, encoding="utf-8")
        scratch.replace(self.folder / name)  # no reader sees half of it
