"""The command line: `python -m harness +quant=int8_row task=mmlu`.

`arguments` puts the words into Hydra's spelling, Hydra composes the configuration, and `explain`
explains Hydra's errors. A sweep goes on when a job fails, and ends with a table of all jobs.
"""

import os
import sys
import traceback
from typing import TYPE_CHECKING

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from harness import config, signals
from harness.cli.arguments import rewrite
from harness.cli.compared_together import compared_together
from harness.cli.explain import explain
from harness.cli.keys import help_page
from harness.cli.recipe_name import recipe_name
from harness.display.summary import Ending, JobResult, print_summary, print_warnings
from harness.errors import (
    ConfigError,
    HarnessError,
    UnsupportedEngine,
    UnsupportedRecipe,
    of_this_machine,
)
from harness.output.stdout import printing, until_closed
from harness.output.temporary import check_temporary
from harness.sweep.gather import results
from harness.sweep.job import announce, typed_overrides, unprinted

if TYPE_CHECKING:
    from harness.runner.run import Outcome

EXIT_FAILED = 1
REQUEUES = "SUBMITIT_EXECUTOR"
"""Environment variable of submitit's workers."""


@hydra.main(version_base="1.3", config_path=str(config.CONF), config_name="config")
def single_job(cfg: DictConfig) -> None:
    """Run the job of a command without a sweep; `harness.sweep` runs the jobs of a sweep.

    Raises:
        ConfigError: Another sweeper than `collecting` runs the job: its result would be lost.
    """
    if HydraConfig.get().mode is RunMode.MULTIRUN:
        chosen = HydraConfig.get().runtime.choices["hydra/sweeper"]
        raise ConfigError(f"hydra/sweeper must be collecting, got {chosen}; leave it out")
    result = run_job(cfg)
    announce(result)
    results.append(result)


def run_job(cfg: DictConfig) -> JobResult:
    """Build and run one composed configuration, and return how it ended; an error is not raised.

    Hydra would print only the first error of a sweep, and take `sys.exit(0)` for success.
    """
    line = trace = ""
    compared: tuple[str, ...] = ()
    record = None
    try:
        outcome = _run(cfg)
        text, compared, record = outcome.summary(), outcome.compared, outcome.path.absolute()
        ending, warnings = Ending.OK, outcome.stored.record.warnings
        first = f"{outcome.label}: {text}: {outcome.path}"
        line = "\n".join((first, *outcome.compared, *_published(outcome)))
    except (Exception, SystemExit) as reason:  # the next job of a sweep must run
        if (interrupt := signals.received()) is not None:
            raise interrupt from reason
        if isinstance(reason, SystemExit) and REQUEUES in os.environ:
            raise  # submitit exits so when Slurm preempts a job, and starts it again
        text, warnings = f"{type(reason).__name__}: {reason}", ()
        unsupported = isinstance(reason, UnsupportedRecipe | UnsupportedEngine)
        ending = Ending.UNSUPPORTED if unsupported else Ending.FAILED
        if said := of_this_machine(reason):
            text = said
        # A HarnessError explains itself.
        elif not isinstance(reason, HarnessError):
            trace = "".join(traceback.format_exception(reason))
    return JobResult(
        overrides=typed_overrides(),
        ending=ending,
        text=text,
        compared=compared,
        record=record,
        line=line,
        trace=trace,
        warnings=warnings,
    )


def _run(cfg: DictConfig) -> "Outcome":
    check_temporary()
    with signals.held():  # imported here: composing, --help and a typo in a key need no torch
        from harness.runner.run import run  # noqa: PLC0415
        from harness.runner.spec import RunSpec  # noqa: PLC0415

    resolved = config.resolve(cfg)
    return run(RunSpec.build(resolved, recipe_name(cfg, resolved)))


def _published(outcome: "Outcome") -> list[str]:
    """Return how a run compares with published figures of its model, if there are any."""
    from harness.anchors import check  # noqa: PLC0415 - a typo in a key needs no records

    return check(outcome.stored.record)


def main() -> None:
    """Run the command line of this process.

    Raises:
        SystemExit: With 1 if a job failed, with 130 after Ctrl-C, with 143 after SIGTERM.
    """
    results.clear()
    unprinted.clear()
    # Without it, Hydra prints an error in its own words and exits.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    with signals.stoppable("what had finished is on file, repeat the command to go on"):
        try:
            sys.argv[1:] = rewrite(sys.argv[1:])
            if (page := help_page(sys.argv[1:], "config")) is not None:
                with printing():
                    sys.stdout.write(page)
                return
            with until_closed():  # Hydra prints --help and --cfg by itself
                single_job()
        # Jobs return their errors: this one is Hydra's, or is about a word.
        except Exception as reason:
            if signals.received():
                raise
            sys.stderr.write(f"{explain(reason, sys.argv[1:])}\n")
            sys.exit(EXIT_FAILED)
        finally:
            if len(results) > 1:
                print_summary(compared_together(results))
            print_warnings(results)
            for text in unprinted:
                sys.stderr.write(f"{text}; what was measured is on file\n")
    endings = {result.ending for result in results}
    # An unsupported recipe is no failure of a sweep that has other results.
    if unprinted or endings & {Ending.FAILED, Ending.CANCELLED} or endings == {Ending.UNSUPPORTED}:
        sys.exit(EXIT_FAILED)


config.register()
