"""Launch the jobs of a sweep and keep a row for each, even if the launcher fails.

`hydra_plugins.quant_harness.sweeper` calls `run`. This module keeps the results, because Hydra
executes modules of plugins twice.
"""

import contextlib
import copy
import logging
import os
import re
import signal
import sys
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

from hydra.core.utils import JobReturn, JobStatus, configure_log, filter_overrides
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext
from omegaconf import DictConfig, read_write

from harness import signals
from harness.display.summary import Ending, JobResult
from harness.output import place
from harness.sweep.job import Job, announce, this_process
from harness.sweep.journal import Journal
from harness.sweep.watch import Watch

log = logging.getLogger(__name__)

results: list[JobResult] = []
"""Results of the jobs of this command, in order."""

IN_THIS_PROCESS = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"
KILLED = (
    "the process of the job was killed ({how}) before it had a result; see whether memory ran out, "
    "and repeat the command"
)
Overrides = Sequence[str]


def run(
    launcher: Launcher,
    function: Callable[[DictConfig], JobResult],
    hydra_context: HydraContext,
    config: DictConfig,
    batches: Sequence[Sequence[Overrides]],
) -> None:
    """Run the jobs of a sweep and append a row for each to `results`.

    Args:
        launcher: Hydra's launcher, which runs the jobs.
        function: Runs one job in this process or another; raises only KeyboardInterrupt.
        hydra_context: Passed on to the launcher.
        config: The configuration of the sweep itself.
        batches: The overrides of each job. A batch starts when the batch before it has ended.

    Raises:
        KeyboardInterrupt: A signal stopped the sweep; every job has a row all the same.
        OutputError: The folder of the records cannot be written.
    """
    root = Path(config.hydra.sweep.dir).absolute()
    folder = root / "jobs" / uuid.uuid4().hex
    with place.explained(Path(config.results_dir), "results_dir", "folder"):
        folder.mkdir(mode=0o700, parents=True)  # overrides may hold a secret
    _log_as_jobs(config, root)
    jobs = [overrides for batch in batches for overrides in batch]
    sweep = _Sweep(launcher, function, hydra_context, config, jobs, Journal(folder=folder))
    first = 0
    try:
        for batch in batches:
            sweep.run(range(first, first + len(batch)))
            first += len(batch)
    except KeyboardInterrupt as reason:
        sweep.close(signals.describe(reason))
        raise
    finally:
        results.extend(row for _, row in sorted(sweep.rows.items()))
        sweep.journal.remove()
        with contextlib.suppress(OSError):  # another sweep has its own beside it
            folder.parent.rmdir()


def _log_as_jobs(config: DictConfig, root: Path) -> None:
    """Set up logging of the sweep like that of its jobs.

    A log file (`hydra/job_logging=default`) needs an output folder, which Hydra sets in jobs only.
    """
    known = copy.deepcopy(config)
    with read_write(known):
        known.hydra.runtime.output_dir = str(root)
    configure_log(known.hydra.job_logging, known.hydra.verbose)


class _Sweep:
    """The jobs of one sweep, and a row for each job that ended."""

    def __init__(
        self,
        launcher: Launcher,
        function: Callable[[DictConfig], JobResult],
        hydra_context: HydraContext,
        config: DictConfig,
        jobs: Sequence[Overrides],
        journal: Journal,
    ) -> None:
        self.rows: dict[int, JobResult] = {}
        self.journal = journal
        self._launcher, self._function = launcher, function
        self._hydra_context, self._config = hydra_context, config
        self._jobs = jobs
        self._launched = 0
        self._here = config.hydra.launcher._target_ == IN_THIS_PROCESS

    def run(self, numbers: Sequence[int]) -> None:
        """Launch jobs. Jobs that the launcher dropped before they ran are launched again."""
        left = list(numbers)
        while left:
            known = len(self.rows)
            reason = self._launch(left)
            if (signum := self.journal.stopped()) is not None:
                signals.interrupt(signum)
            left = [number for number in numbers if number not in self.rows]
            if reason is not None and len(self.rows) == known:  # no progress: it would fail again
                for number in left:
                    self._lose(number, f"the launcher failed: {type(reason).__name__}: {reason}")
                return

    def close(self, why: str) -> None:
        """Add a row for every job without one, because a signal stopped the sweep."""
        started = {number for number, _, _ in self.journal.started()}
        for number in range(len(self._jobs)):
            if number not in self.rows:
                ending = Ending.CANCELLED if number in started else Ending.NOT_RUN
                known = self.journal.result(number)
                self.rows[number] = known or self._row(number, ending, why)

    def _launch(self, numbers: Sequence[int]) -> Exception | None:
        """Launch jobs once and keep their results; return the exception if the launcher fails."""
        first, self._launched = self._launched, self._launched + len(numbers)
        job = Job(
            function=self._function,
            numbers=dict(enumerate(numbers, start=first)),
            journal=self.journal,
            argv=tuple(sys.orig_argv),
            home=this_process(),
            announces=self._here,
        )
        self._launcher.setup(
            hydra_context=self._hydra_context, task_function=job, config=self._config
        )
        for number in numbers:
            self.journal.forget(number)
        overrides = [list(self._jobs[number]) for number in numbers]
        if self._here:
            returned = self._launcher.launch(overrides, initial_job_idx=first)
        else:
            try:
                returned = self._launch_elsewhere(overrides, first)
            except Exception as reason:  # a foreign launcher may raise anything
                return reason
        for number, item in zip(numbers, returned, strict=True):
            self._take(number, item)
        return None

    def _launch_elsewhere(self, overrides: list[list[str]], first: int) -> Sequence[JobReturn]:
        """Launch jobs in other processes; a signal to this process stops them.

        Raises:
            Exception: The launcher failed. Jobs whose process was killed have a row.
        """
        watch = Watch(self.journal, self._keep)

        def stop(signum: int) -> None:
            self.journal.stop(signum)
            log.warning("stopping: jobs that run close their records; a second Ctrl-C kills them")

        def kill() -> None:
            for process in watch.running.values():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)

        try:
            with signals.announced(stop, kill), signals.kept_from_children(), watch:
                try:
                    return self._launcher.launch(overrides, initial_job_idx=first)
                except Exception:
                    watch.wait()  # jobs may still run after the launcher has failed
                    raise
        except Exception as reason:
            if self.journal.stopped() is None:
                signal_name = re.search(r"SIG[A-Z]+", str(reason))
                how = signal_name.group() if signal_name else "SIGKILL, or a crash"
                for number in watch.killed or tuple(watch.running):
                    self._lose(number, KILLED.format(how=how))
            raise

    def _take(self, number: int, item: JobReturn) -> None:
        """Keep the result that a launcher returns for a job."""
        if item.status is JobStatus.COMPLETED:
            self._keep(number, item.return_value)
            return
        # The error is not of the job itself: a library may be missing there. The public property
        # `return_value` would raise it, and print all overrides.
        reason = item._return_value  # noqa: SLF001
        self._lose(number, f"{type(reason).__name__}: {reason}")

    def _keep(self, number: int, row: JobResult) -> None:
        if number not in self.rows:
            self.rows[number] = row
            if not self._here:  # in this process the job has printed it
                announce(row)

    def _lose(self, number: int, text: str) -> None:
        if number not in self.rows:
            self.rows[number] = self._row(number, Ending.FAILED, text)
            announce(self.rows[number])

    def _row(self, number: int, ending: Ending, text: str) -> JobResult:
        overrides = tuple(filter_overrides(self._jobs[number]))
        return JobResult(overrides=overrides, ending=ending, text=text)
