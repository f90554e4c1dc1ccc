"""One job of a sweep, as it is sent to the process that runs it."""

import contextlib
import logging
import os
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from harness import signals
from harness.display import progress
from harness.display.summary import Ending, JobResult
from harness.errors import OutputError
from harness.output.stdout import printing
from harness.sweep.journal import Journal

log = logging.getLogger(__name__)


unprinted: list[str] = []
"""Why results of this command could not be printed. The results are on file."""


def announce(result: JobResult) -> None:
    """Print the result of a job on standard output, or its error on standard error."""
    if result.line:
        try:
            with printing():
                sys.stdout.write(f"{result.line}\n")
        except OutputError as reason:  # the job did not fail: its result is on file
            unprinted.append(str(reason))
    elif result.ending in (Ending.FAILED, Ending.UNSUPPORTED):
        log.error("%s", "\n".join(filter(None, (result.text, result.trace))))


def typed_overrides() -> tuple[str, ...]:
    """Return the overrides of this process's job, as typed.

    Interpolations stay: they may name a key that does not exist.
    """
    overrides = OmegaConf.to_container(HydraConfig.get().overrides, resolve=False)
    return tuple(cast(dict[str, list[str]], overrides)["task"])


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """The function that a launcher calls, in this process or in another one."""

    function: Callable[[DictConfig], JobResult]
    numbers: dict[int, int]
    """Number of a job in the launch, which Hydra counts -> its number in the sweep."""
    journal: Journal
    argv: tuple[str, ...]
    """The command as it was typed."""
    home: tuple[str, int]
    """Machine and process that the command was typed in."""
    announces: bool
    """Whether the job prints its result; otherwise the process that watches the journal does."""

    def __call__(self, cfg: DictConfig) -> JobResult:
        """Run a job; return a row `not run` if the sweep was stopped before."""
        number = self.numbers[HydraConfig.get().job.num]
        overrides = typed_overrides()
        here = self.home == this_process()
        if (signum := self.journal.stopped()) is not None:
            return not_run(overrides, signum)
        with contextlib.suppress(OSError):  # a full disk: the launcher returns the result too
            self.journal.start(number)
        try:
            if here:
                with signals.interrupting():
                    signals.receive_here()  # joblib with one job runs in a thread of this process
                    result = self.function(cfg)
            else:
                with signals.in_worker(self.journal.stopped):
                    result = self._in_worker(cfg, number)
        except KeyboardInterrupt as reason:
            result = JobResult(
                overrides=overrides, ending=Ending.CANCELLED, text=signals.describe(reason)
            )
            if here:
                self._finish(number, result)
                raise
        self._finish(number, result)
        if self.announces:
            announce(result)
        return result

    def _in_worker(self, cfg: DictConfig, number: int) -> JobResult:
        # Records name the command that was typed, not the command of the worker.
        sys.orig_argv = list(self.argv)
        progress.in_lines()
        if cfg.device == "auto":
            with signals.held():  # only workers import torch
                from harness.machine.devices import of_job  # noqa: PLC0415

            cfg.device = of_job(number)
        return self.function(cfg)

    def _finish(self, number: int, result: JobResult) -> None:
        with contextlib.suppress(OSError):
            self.journal.finish(number, result)


def this_process() -> tuple[str, int]:
    """Return the machine and the number of this process."""
    return socket.gethostname(), os.getpid()


def not_run(overrides: tuple[str, ...], signum: int) -> JobResult:
    """Return the row of a job whose sweep was stopped before its turn."""
    return JobResult(
        overrides=overrides, ending=Ending.NOT_RUN, text=str(signals.Interrupted(signum))
    )
