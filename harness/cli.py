"""The command line: `python -m harness +quant=int8_row task=mmlu`.

Hydra composes the configuration; this module makes its edges friendlier. `quant=X` works like `+quant=X`. A wrong key
is answered with the legal ones. A sweep goes on when a job fails, and ends with a table of all jobs.
"""

import logging
import os
import sys
import warnings
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from harness import config
from harness.errors import HarnessError

log = logging.getLogger(__name__)

PACKAGE = Path(__file__).parent
CONF = next(folder for folder in (PACKAGE / "conf", PACKAGE.parent / "conf") if folder.is_dir())
EXIT_FAILED = 1
EXIT_INTERRUPTED = 130


@dataclass(frozen=True, kw_only=True, slots=True)
class JobResult:
    """What one job of a sweep, or a single run, has to say."""

    overrides: str
    ok: bool
    text: str


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def run_job(cfg: DictConfig) -> JobResult:
    """Build and run one composed configuration; an error is reported and returned, never raised.

    Hydra would stop at an exception it does not expect and print only the first of the others.
    """
    # Imported here: composing, --help and a typo in a key need no torch.
    from harness.run import RunSpec, run  # noqa: PLC0415

    hydra_config = HydraConfig.get()
    overrides = " ".join(hydra_config.overrides.task) or "defaults"
    try:
        outcome = run(RunSpec.build(config.resolve(cfg)))
        text = _sentence(outcome)
        result = JobResult(overrides=overrides, ok=True, text=text)
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
    except HarnessError as reason:
        log.error("%s: %s", type(reason).__name__, reason)
        result = JobResult(overrides=overrides, ok=False, text=f"{type(reason).__name__}: {reason}")
    except OmegaConfBaseException as reason:
        log.error("ConfigError: %s", reason)
        result = JobResult(overrides=overrides, ok=False, text=f"ConfigError: {reason}")
    except (Exception, SystemExit) as reason:  # the one place that must outlive every job
        log.exception("the run failed")
        result = JobResult(overrides=overrides, ok=False, text=f"{type(reason).__name__}: {reason}")
    if hydra_config.mode is RunMode.RUN and not result.ok:
        sys.exit(EXIT_FAILED)
    return result


def main() -> None:
    """Run the command line of this process."""
    sys.argv[1:] = [_add_plus(argument) for argument in sys.argv[1:]]
    # Hydra prints and exits by itself unless asked for the whole error; here errors are explained first.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    warnings.filterwarnings("ignore", category=UserWarning, module="hydra")
    try:
        run_job()
    except (HydraException, OmegaConfBaseException) as reason:
        sys.stderr.write(f"{explain(reason)}\n")
        sys.exit(EXIT_FAILED)
    except OSError as reason:
        sys.stderr.write(f"results_dir must be a folder that can be written: {reason}\n")
        sys.exit(EXIT_FAILED)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; what had finished is on file, repeat the command to go on\n")
        sys.exit(EXIT_INTERRUPTED)


def _add_plus(argument: str) -> str:
    """Turn `quant=X` into `+quant=X`, the only spelling Hydra takes for a group outside the defaults list."""
    return f"+{argument}" if argument.startswith("quant=") else argument


def explain(reason: BaseException) -> str:
    """Return Hydra's message, and for an unknown key the legal ones beside it."""
    # Hydra advises to append an unknown key with a plus, which is refused here all the same.
    text = "\n".join(l for l in str(reason).strip().splitlines() if not l.startswith("To append"))
    cause: BaseException | None = reason
    while cause is not None:
        parent, key = getattr(cause, "parent_node", None), getattr(cause, "key", None)
        if isinstance(parent, DictConfig) and key is not None and key not in parent:
            prefix = f"{parent._get_full_key(None)}."  # noqa: SLF001 - no public way to a node's path
            legal = [str(name) for name in parent if name != "_target_"]
            close = get_close_matches(str(key), legal, n=1)
            hint = f" (did you mean {prefix.lstrip('.')}{close[0]}?)" if close else ""
            return f"{text}\nLegal keys of {prefix.rstrip('.') or 'the configuration'}: {', '.join(legal) or 'none'}{hint}"
        cause = cause.__cause__
    return text


def _sentence(outcome: "Outcome") -> str:  # type: ignore[name-defined]
    """Return one line: recipe, task, headline metric with interval, and where the record lies."""
    metric = outcome.headline
    value = "no value"
    if metric is not None and metric.value is not None:
        value = f"{metric.name} {metric.value:.4f}"
        if metric.ci95 is not None:
            value += f" [{metric.ci95[0]:.4f}, {metric.ci95[1]:.4f}]"
        value += f", n = {metric.n} {metric.n_of}s"
    how = "already on file, skipped (force=true repeats it)" if outcome.skipped else "done"
    return f"{outcome.label}: {value}; {how}: {outcome.path}"


config.register()
