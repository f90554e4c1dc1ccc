"""`quant-harness plan task=mmlu delta=0.5pp`: what a difference takes, before anything is measured.

The words are those of a run, with `delta` and `flip_rate` beside them. An error is one line, with
exit code 1.
"""

import os
import sys
import traceback
from dataclasses import dataclass
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from harness import config, signals
from harness.cli.arguments import MULTIRUN, rewrite
from harness.cli.explain import explain
from harness.cli.keys import help_page
from harness.cli.recipe_name import recipe_name
from harness.cli.run import EXIT_FAILED
from harness.errors import ConfigError, HarnessError, of_this_machine
from harness.output.stdout import printing, until_closed
from harness.output.temporary import check_temporary

NAME = "plan"
"""The configuration file in `conf/`."""
OWN_KEYS = ("delta", "flip_rate")
"""Keys that a run does not have."""


@dataclass
class PlanConfig(config.RunConfig):
    """Top level of the configuration."""

    delta: Any = None
    flip_rate: Any = None


def register() -> None:
    """Store the schema in Hydra as `base_plan`."""
    config.register()
    ConfigStore.instance().store(name="base_plan", node=PlanConfig)


@hydra.main(version_base="1.3", config_path=str(config.CONF), config_name=NAME)
def plan_job(cfg: DictConfig) -> None:
    """Plan one composed configuration; on an error, print one line and exit with code 1.

    An error that left this function would make Hydra print all overrides first.
    """
    try:
        _print(cfg)
    except Exception as reason:
        if (interrupt := signals.received()) is not None:
            raise interrupt from reason
        said = str(reason) if isinstance(reason, HarnessError) else of_this_machine(reason)
        sys.stderr.write(f"{said}\n" if said else traceback.format_exc())
        sys.exit(EXIT_FAILED)


def _print(cfg: DictConfig) -> None:
    check_temporary()
    run = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key not in OWN_KEYS])
    asked = {key: None if cfg[key] is None else str(cfg[key]) for key in OWN_KEYS}
    resolved = config.resolve(run)
    # Imported here, so that composing, --help and a typo in a key need no torch.
    with signals.held():
        from harness.plan.sentences import page  # noqa: PLC0415
        from harness.runner.planned import plan  # noqa: PLC0415
        from harness.runner.spec import RunSpec  # noqa: PLC0415

    found = plan(RunSpec.build(resolved, recipe_name(run, resolved)), **asked)
    with printing():
        sys.stdout.write(page(found))


def main() -> None:
    """Run the command line of this process."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    with signals.stoppable("nothing was filed"):
        try:
            sys.argv[1:] = rewrite(sys.argv[1:])
            words = sys.argv[1:]
            if any(word in MULTIRUN for word in words):
                raise ConfigError("a plan must be of one run, got a sweep; plan each run alone")
            if (page := help_page(words, NAME)) is not None:
                with printing():
                    sys.stdout.write(page)
                return
            with until_closed():  # Hydra prints --help and --cfg by itself
                plan_job()
        # `plan_job` reports its own errors. Others are of Hydra, or of a mistyped word.
        except Exception as reason:
            if signals.received():
                raise
            sys.stderr.write(f"{explain(reason, sys.argv[1:], NAME)}\n")
            sys.exit(EXIT_FAILED)


register()
