"""Launch the jobs of a sweep and have a row for each, whatever becomes of the launcher.

`hydra_plugins.quant_harness.sweeper` calls `run`. Hydra executes plugin modules anew, so what is gathered stands here.
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
from omegaconf import DictConfig, flag_override

from harness import signals
from harness.summary import Ending, JobResult
from harness.sweep.job import Job, announce, this_process
from harness.sweep.journal import Journal
from harness.sweep.watch import Watch

log = logging.getLogger(__name__)

results: list[JobResult] = []
"""Jobs of the command that this process runs, in order."""

IN_THIS_PROCESS = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"
KILLED = "the process of the job was killed ({how}) before it had a result; see whether memory ran out, and repeat the command"
Overrides = Sequence[str]


def run(
    launcher: Launcher,
    function: Callable[[DictConfig], JobResult],
    hydra_context: HydraContext,
    config: DictConfig,
    batches: Sequence[Sequence[Overrides]],
) -> None:
    """Run the jobs of a sweep and put a row for each into `results`.

    Args:
        launcher: What runs them.
        function: Runs one job in this process or another, and raises nothing but KeyboardInterrupt.
        hydra_context: What launchers ask for.
        config: The configuration of the sweep itself.
        batches: The overrides of each job; a batch starts when the one before it has ended.

    Raises:
        KeyboardInterrupt: A signal stopped the sweep; the rows say how far it came.
    """
    whole = Path(config.hydra.sweep.dir).absolute()
    folder = whole / "jobs" / uuid.uuid4().hex
    folder.mkdir(mode=0o700, parents=True)  # overrides may hold a secret
    # Settings of the user's own may log to a file in the folder of a job; a sweep has its own folder.
    of_sweep = copy.deepcopy(config)
    with flag_override(of_sweep, ["readonly", "struct"], False):
        of_sweep.hydra.runtime.output_dir = str(whole)
    configure_log(of_sweep.hydra.job_logging, config.hydra.verbose)
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


class _Sweep:
    """The jobs of one sweep and their rows."""

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
        """Launch jobs, and launch again those that a launcher lost without having run them."""
        left = list(numbers)
        while left:
            known = len(self.rows)
            reason = self._launch(left)
            if (signum := self.journal.stopped()) is not None:
                signals.interrupt(signum)
            left = [number for number in numbers if number not in self.rows]
            if reason is not None and len(self.rows) == known:  # it would fail again
                for number in left:
                    self._lose(number, f"the launcher failed: {type(reason).__name__}: {reason}")
                return

    def close(self, why: str) -> None:
        """Give a row to every job that a stopped sweep left."""
        started = {number for number, _, _ in self.journal.started()}
        for number in range(len(self._jobs)):
            if number not in self.rows:
                ending = Ending.CANCELLED if number in started else Ending.NOT_RUN
                known = self.journal.result(number)
                self.rows[number] = known or self._row(number, ending, why)

    def _launch(self, numbers: Sequence[int]) -> Exception | None:
        """Launch jobs once, and take what results there are; return what the launcher failed with, if it did."""
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
            except Exception as reason:  # whatever a launcher raises, there is a row for each job
                return reason
        for number, item in zip(numbers, returned, strict=True):
            self._take(number, item)
        return None

    def _launch_elsewhere(self, overrides: list[list[str]], first: int) -> Sequence[JobReturn]:
        """Launch jobs in other processes, which a signal here stops.

        Raises:
            Exception: The launcher failed; there is a row for each job whose process was killed.
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
                    watch.wait()  # a launcher that failed may have left jobs that run
                    raise
        except Exception as reason:
            if self.journal.stopped() is None:
                signal_name = re.search(r"SIG[A-Z]+", str(reason))
                how = signal_name.group() if signal_name else "SIGKILL, or a crash"
                for number in watch.killed or tuple(watch.running):
                    self._lose(number, KILLED.format(how=how))
            raise

    def _take(self, number: int, item: JobReturn) -> None:
        """Keep what a launcher hands back for a job."""
        if item.status is JobStatus.COMPLETED:
            self._keep(number, item.return_value)
            return
        # Outside of the job's own function, such as a library that is missing there. The public property prints all overrides.
        reason = item._return_value  # noqa: SLF001
        self._lose(number, f"{type(reason).__name__}: {reason}")

    def _keep(self, number: int, row: JobResult) -> None:
        if number not in self.rows:
            self.rows[number] = row
            if not self._here:  # there the job itself has said so
                announce(row)

    def _lose(self, number: int, text: str) -> None:
        if number not in self.rows:
            self.rows[number] = self._row(number, Ending.FAILED, text)
            announce(self.rows[number])

    def _row(self, number: int, ending: Ending, text: str) -> JobResult:
        overrides = tuple(filter_overrides(self._jobs[number]))
        return JobResult(overrides=overrides, ending=ending, text=text)
