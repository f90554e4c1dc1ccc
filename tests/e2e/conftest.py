"""Child processes that are watched, stopped and killed while they run."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from commands import Command

from harness.results.record import RunRecord, Status
from harness.results.store import ResultStore, Stored

Child = subprocess.Popen[str] | Command
Start = Callable[..., Child]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start `python -m harness ARGUMENTS` and return at once; what still runs at the end is killed."""
    children: list[Child] = []

    def begin(
        *arguments: str,
        cwd: Path = tmp_path,
        without: str = "",
        module: str = "harness",
        own_group: bool = False,
        cold: bool = False,
        **changes: str,
    ) -> Child:
        offline = {"HF_HUB_OFFLINE": "1", "NO_COLOR": "1", "COLUMNS": "200"}
        environment = os.environ | offline | changes
        environment.pop(without, None)
        # Libraries read such variables while they are imported.
        if not (cold or own_group or without or changes.keys() - {"HF_TOKEN"}):
            children.append(Command(module, arguments, cwd, environment))
            return children[-1]
        # A child ignores Ctrl-C if its parent does, as in a background job of a shell.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            child = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                cwd=cwd,
                env=environment,
                start_new_session=own_group,
            )
        finally:
            signal.signal(signal.SIGINT, before)
        children.append(child)
        return child

    yield begin
    for child in children:
        child.kill()
        child.communicate()


@pytest.fixture
def records() -> Callable[[Path], list[RunRecord]]:
    """Return a function that reads all records under a folder, none of them broken."""

    def read_all(root: Path) -> list[RunRecord]:
        stored, problems = ResultStore(root=root).load()
        assert problems == []
        return [item.record for item in stored]

    return read_all


@pytest.fixture
def wait_until_running() -> Callable[[Path, Child], Stored]:
    """Return a function that waits for a record that says `running`."""

    def wait(root: Path, child: Child) -> Stored:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            stored, problems = ResultStore(root=root).load()
            assert problems == [], "a reader never sees half a file"
            if stored and stored[-1].record.status is Status.RUNNING:
                return stored[-1]
            assert child.poll() is None, child.communicate()
            time.sleep(0.01)
        raise AssertionError("no record says running")

    return wait
