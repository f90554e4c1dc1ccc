"""The command line: `python -m harness +quant=int8_row task=mmlu`.

Hydra composes the configuration. Its arguments are put into its spelling first (`harness.arguments`), and its errors are
explained (`harness.explain`). A sweep goes on when a job fails, and ends with a table of all jobs.
"""

import logging
import os
import sys
from typing import TYPE_CHECKING, cast

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from harness import config
from harness.arguments import rewrite
from harness.errors import HarnessError, UnsupportedRecipe
from harness.explain import explain
from harness.summary import Ending, JobResult, print_summary, print_warnings

if TYPE_CHECKING:
    from harness.run import Outcome

log = logging.getLogger(__name__)

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130


_results: list[JobResult] | None = None
"""Jobs of this command so far; None in a worker process of a launcher, which Hydra must tell of failures itself."""


@hydra.main(version_base="1.3", config_path=str(config.CONF), config_name="config")
def run_job(cfg: DictConfig) -> None:
    """Build and run one composed configuration; report an error instead of raising it.

    Hydra would print only the first error of a sweep, at its end, and take `sys.exit(0)` for success.
    """
    try:
        outcome = _run(cfg)
        text, ending, warnings = outcome.summary(), Ending.OK, outcome.warnings
        sys.stdout.write(f"{outcome.label}: {text}: {outcome.path}\n")
        sys.stdout.flush()
    except (Exception, SystemExit) as reason:  # the one place that must outlive every job
        if _results is None:
            raise
        text, warnings = f"{type(reason).__name__}: {reason}", ()
        ending = Ending.UNSUPPORTED if isinstance(reason, UnsupportedRecipe) else Ending.FAILED
        # An error that explains itself needs no traceback.
        log.error("%s", text, exc_info=not isinstance(reason, HarnessError))
    if _results is not None:
        # As they were typed: an interpolation in them may lead nowhere.
        typed = OmegaConf.to_container(HydraConfig.get().overrides)
        overrides = tuple(cast(dict[str, list[str]], typed)["task"])
        _results.append(JobResult(overrides=overrides, ending=ending, text=text, warnings=warnings))


def _run(cfg: DictConfig) -> "Outcome":
    # Imported here: composing, --help and a typo in a key need no torch.
    from harness.run import RunSpec, run  # noqa: PLC0415

    return run(RunSpec.build(config.resolve(cfg)))


def main() -> None:
    """Run the command line of this process; exit with 1 if some job failed, with 130 after Ctrl-C."""
    # Hydra offers no way to hand the jobs' results back.
    global _results
    _results = []
    # Hydra prints and exits by itself unless asked for the whole error; here errors are explained first.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    try:
        sys.argv[1:] = rewrite(sys.argv[1:])
        run_job()
    # Jobs report their own errors: what comes here is Hydra's, or of a word.
    except Exception as reason:
        sys.stderr.write(f"{explain(reason, sys.argv[1:])}\n")
        sys.exit(EXIT_FAILED)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; what had finished is on file, repeat the command to go on\n")
        sys.exit(EXIT_INTERRUPTED)
    if len(_results) > 1:
        print_summary(_results)
    print_warnings(_results)
    endings = {result.ending for result in _results}
    # Where a recipe cannot run there is nothing to mend, as long as the sweep has something to show.
    if Ending.FAILED in endings or endings == {Ending.UNSUPPORTED}:
        sys.exit(EXIT_FAILED)


config.register()
