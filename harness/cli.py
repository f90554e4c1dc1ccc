"""The command line: `python -m harness +quant=int8_row task=mmlu`.

Hydra composes the configuration; this module makes its edges friendlier. `quant=X` works like `+quant=X`. A wrong key
is answered with the legal ones. A sweep goes on when a job fails, and ends with a table of all jobs.
"""

import logging
import os
import sys
from difflib import get_close_matches
from typing import TYPE_CHECKING

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from harness import config, path_overrides
from harness.errors import HarnessError, UnsupportedRecipe
from harness.summary import Ending, JobResult, print_summary

if TYPE_CHECKING:
    from harness.run import Outcome

log = logging.getLogger(__name__)

MULTIRUN = ("-m", "--multirun")
ADDED_GROUPS = ("quant=", "experiment=")
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
        text, ending = outcome.summary(), Ending.OK
        sys.stdout.write(f"{outcome.label}: {text}: {outcome.path}\n")
        sys.stdout.flush()
    except (Exception, SystemExit) as reason:  # the one place that must outlive every job
        if _results is None:
            raise
        text = f"{type(reason).__name__}: {reason}"
        ending = Ending.UNSUPPORTED if isinstance(reason, UnsupportedRecipe) else Ending.FAILED
        # An error that explains itself needs no traceback.
        log.error("%s", text, exc_info=not isinstance(reason, HarnessError))
    if _results is not None:
        overrides = tuple(HydraConfig.get().overrides.task)
        _results.append(JobResult(overrides=overrides, ending=ending, text=text))


def _run(cfg: DictConfig) -> "Outcome":
    # Imported here: composing, --help and a typo in a key need no torch.
    from harness.run import RunSpec, run  # noqa: PLC0415

    return run(RunSpec.build(config.resolve(cfg)))


def main() -> None:
    """Run the command line of this process; exit with 1 if some job failed, with 130 after Ctrl-C."""
    # Hydra offers no way to hand the jobs' results back.
    global _results
    _results = []
    sys.argv[1:] = rewrite(sys.argv[1:])
    # Hydra prints and exits by itself unless asked for the whole error; here errors are explained first.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    try:
        run_job()
    except (HydraException, OmegaConfBaseException, ValueError) as reason:
        # Jobs report their own errors: a ValueError here is Hydra's, for flags that exclude each other.
        sys.stderr.write(f"{explain(reason)}\n")
        sys.exit(EXIT_FAILED)
    except OSError as reason:
        sys.stderr.write(f"results_dir must be a folder that can be written, got: {reason}\n")
        sys.exit(EXIT_FAILED)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; what had finished is on file, repeat the command to go on\n")
        sys.exit(EXIT_INTERRUPTED)
    if len(_results) > 1:
        print_summary(_results)
    endings = {result.ending for result in _results}
    # Where a recipe cannot run there is nothing to mend, as long as the sweep has something to show.
    if Ending.FAILED in endings or endings == {Ending.UNSUPPORTED}:
        sys.exit(EXIT_FAILED)


def rewrite(arguments: list[str]) -> list[str]:
    """Return the arguments in the one spelling that Hydra takes.

    - `quant=X` becomes `+quant=X`, and `experiment` likewise: these groups stand outside the defaults list.
    - `-m` moves to the front: behind a first override Hydra would not find it.
    - Paths are quoted; see `harness.path_overrides`.
    - In a sweep, `task.limit=8` becomes `task.limit=choice(8)`: Hydra first composes a sweep without its swept groups,
      and would look for the key in the default task. A choice of one value is left for the jobs. Null and nothing
      cannot be chosen, and a choice of one text loses its quotes: they are forced (`++`), and an unknown key among them is
      refused when the job is built.
    """
    added = [f"+{a}" if a.startswith(ADDED_GROUPS) else a for a in arguments]
    sweep = any(a in MULTIRUN or a.startswith("+experiment=") for a in added)
    flags = [a for a in added if a in MULTIRUN]
    rest = [path_overrides.quoted(a, sweep=sweep) for a in added if a not in MULTIRUN]
    return [*flags, *(_for_jobs(a) if sweep else a for a in rest)]


def _for_jobs(argument: str) -> str:
    """Return an override of a swept run so that it is applied to the jobs only."""
    key, equals, value = argument.partition("=")
    of_group = key.split(".")[0] in ("model", "task", "quant", "data") and "." in key
    if not equals or not of_group or _is_sweep(argument):
        return argument
    forced = value in ("", "null") or value[0] in "'\""
    return f"++{argument}" if forced else f"{key}=choice({value})"


def _is_sweep(argument: str) -> bool:
    try:
        return OverridesParser.create().parse_override(argument).is_sweep_override()
    except HydraException:  # Hydra will say what is wrong with it
        return True


def explain(reason: BaseException) -> str:
    """Return Hydra's message, with what it keeps to itself: the cause, and for an unknown key the legal ones."""
    lines = str(reason).strip().splitlines()
    cause: BaseException | None = reason
    while cause is not None:
        parent, key = getattr(cause, "parent_node", None), getattr(cause, "key", None)
        if isinstance(parent, DictConfig) and key is not None and key not in parent:
            # Hydra advises to append an unknown key with a plus, which is refused here all the same.
            kept = [line for line in lines if not line.startswith("To append")]
            return "\n".join([*kept, _legal_keys(parent, str(key))])
        if cause is not reason and isinstance(cause, OmegaConfBaseException):
            lines += [line for line in str(cause).splitlines() if line not in lines]
        cause = cause.__cause__
    return "\n".join(lines)


def _legal_keys(parent: DictConfig, key: str) -> str:
    path = str(parent._get_full_key(None))  # noqa: SLF001 - no public way to a node's path
    target = str(parent.get("_target_", "")).rpartition(".")[2]
    place = f"{path} ({target})" if path and target else path or "the configuration"
    legal = [str(name) for name in parent if name != "_target_"]
    close = get_close_matches(key, legal, n=1)
    hint = f" (did you mean {path + '.' if path else ''}{close[0]}?)" if close else ""
    return f"Legal keys of {place}: {', '.join(legal) or 'none'}{hint}"


config.register()
