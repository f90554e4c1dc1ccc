"""Files by which the jobs of a sweep report to the waiting process, under any launcher.

    <number>.started    machine and process of a job that has started
    <number>.json       its result
    stop                the signal that stopped the sweep

A launcher returns all results at its end, and none if it fails. A file is there as soon as its job
ends, and stays if the launcher fails.
"""

import json
import os
import shutil
import socket
from collections.abc import Container, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pydantic import TypeAdapter

from harness.display.summary import JobResult
from harness.output import scratch


@cache
def _serializer() -> TypeAdapter[JobResult]:
    """Return the serializer of results. Building it is slow, and few commands need it."""
    return TypeAdapter(JobResult)


@dataclass(frozen=True, kw_only=True, slots=True)
class Journal:
    """The folder of one sweep, which its jobs and the waiting process can see."""

    folder: Path

    def start(self, number: int) -> None:
        """Write that this process runs a job."""
        here = json.dumps([socket.gethostname(), os.getpid()])
        self._write(f"{number}.started", here.encode())

    def finish(self, number: int, result: JobResult) -> None:
        """Write the result of a job."""
        self._write(f"{number}.json", _serializer().dump_json(result))

    def stop(self, signum: int) -> None:
        """Ask running jobs to stop, and later jobs not to start."""
        self._write("stop", b"%d" % signum)

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
        """Remove the file of a job's start, before the job is launched again."""
        (self.folder / f"{number}.started").unlink(missing_ok=True)

    def result(self, number: int) -> JobResult | None:
        """Return the result of a job, or None while there is none."""
        try:
            return _serializer().validate_json((self.folder / f"{number}.json").read_bytes())
        except OSError:
            return None

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _write(self, name: str, content: bytes) -> None:
        with scratch.file_in(self.folder) as (new, stream):
            stream.write(content)
            stream.flush()
            new.replace(self.folder / name)  # a reader sees the whole file or none
