"""Watch the jobs of a sweep: collect results, and notice processes that end without a result."""

import os
import select
import socket
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from harness import signals
from harness.display.summary import JobResult
from harness.sweep.journal import Journal

POLL_S = 0.2
"""How often the journal is read [s]."""
HAS_HANDLES = hasattr(os, "pidfd_open")
"""Linux has handles that tell at once when a process ends. Other systems do not tell the order in
which processes end."""


class Watch:
    """A thread that reads the journal while a launcher runs jobs."""

    def __init__(self, journal: Journal, finished: Callable[[int, JobResult], None]) -> None:
        """Prepare to watch.

        Args:
            journal: Files that the jobs write.
            finished: Called once with the number and the result of each job that ends.
        """
        self.killed: tuple[int, ...] = ()
        """Jobs of the first process that ended without a result. Only the first process counts: the
        launcher may have killed the others."""
        self._journal, self._finished = journal, finished
        self._done: set[int] = set()
        self.running: dict[int, int] = {}
        """Job -> process, for the running jobs on this machine."""
        self._handles: dict[int, int] = {}
        """Process -> its handle (pidfd)."""
        self._ends = select.poll()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        reason: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()
        for handle in self._handles.values():
            os.close(handle)

    def wait(self) -> None:
        """Wait until no job runs on this machine."""
        time.sleep(3 * POLL_S)  # until the thread has read the journal again
        while HAS_HANDLES and self.running:
            time.sleep(POLL_S)

    def _watch(self) -> None:
        signals.receive_here()
        while not self._over.is_set():
            self._look()
            ready = {handle for handle, _ in self._ends.poll(POLL_S * 1e3)}
            self._note_ends(
                {process for process, handle in self._handles.items() if handle in ready}
            )
        self._look()

    def _look(self) -> None:
        for number, host, process in self._journal.started(without=self._done):
            if (result := self._journal.result(number)) is not None:
                self._done.add(number)
                self.running.pop(number, None)
                self._finished(number, result)
            elif host == socket.gethostname() and number not in self.running:
                self.running[number] = process
                self._open(process)

    def _open(self, process: int) -> None:
        if not HAS_HANDLES or process in self._handles:
            return
        try:
            self._handles[process] = os.pidfd_open(process)
        except ProcessLookupError:
            self._note_ends({process})
        else:
            self._ends.register(self._handles[process], select.POLLIN)

    def _note_ends(self, processes: set[int]) -> None:
        for process in processes & self._handles.keys():
            handle = self._handles.pop(process)
            self._ends.unregister(handle)
            os.close(handle)
        if processes:
            self._look()  # a job may write its result just before its process ends
        lost = tuple(number for number, process in self.running.items() if process in processes)
        for number in lost:
            self._done.add(number)
            del self.running[number]
        self.killed = self.killed or lost
