"""`harness.run`: one run from Python, such as a notebook, a script, or a program that uses Hydra.

It takes the words of the command line. Errors are raised instead of printed. Hydra's global state,
`sys.argv`, logging and signal handlers stay as they were.
"""

import copy
import logging
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from hydra.errors import HydraException
from hydra.version import VersionBase
from omegaconf import open_dict
from omegaconf.basecontainer import BaseContainer
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from harness import config
from harness.anchors import check
from harness.cli.arguments import MULTIRUN, is_sweep, rewrite
from harness.cli.explain import explain
from harness.cli.plain_logging import plain_logging
from harness.cli.recipe_name import recipe_name
from harness.cli.spelling import spelled
from harness.errors import ConfigError
from harness.output.temporary import check_temporary
from harness.redaction import redacted_arguments
from harness.results.record import RunRecord

log = logging.getLogger(__name__)

OF_A_PROGRAM = (GlobalHydra, HydraConfig, VersionBase)
"""What Hydra keeps for the program that started it."""


def run(*words: str, **keys: Any) -> RunRecord:
    """Make one run and file its record, or return the record of an identical run that is on file.

        harness.run("model=tiny", "quant=int8_row", task="perplexity")
        harness.run(task="mmlu", **{"task.limit": 100, "model.dtype": "float32"})

    Args:
        *words: Words of the command line, such as `model=tiny` or `task.limit=100`.
        **keys: The same as Python values: None, bools, numbers, texts, paths, lists and dicts.
            A key with a dot goes through a dict and `**`.

    Returns:
        The record on file, with its metrics, their n and intervals.

    Raises:
        HarnessError: A word is wrong (ConfigError), the recipe cannot run here (UnsupportedRecipe),
            or a later stage failed; then the record on file says so too.
    """
    typed = [*words, *(spelled(key, value) for key, value in keys.items())]
    with plain_logging():
        check_temporary()
        resolved, name = _composed(typed)
        # Imported here: a mistake in a word needs no torch.
        from harness.runner.run import run as measure  # noqa: PLC0415
        from harness.runner.spec import RunSpec  # noqa: PLC0415

        command = shlex.join(["python", "-m", "harness", *redacted_arguments(typed)])
        outcome = measure(RunSpec.build(resolved, name, command))
        for warning in outcome.stored.record.warnings:
            log.warning("%s", warning)
        log.info("%s: %s: %s", outcome.label, outcome.summary(), outcome.path)
        for sentence in (*outcome.compared, *check(outcome.stored.record)):
            log.info("%s", sentence)
    return outcome.stored.record


def _composed(typed: list[str]) -> tuple[dict[str, Any], str]:
    """Return the resolved configuration of one run, and the name of its recipe.

    Raises:
        ConfigError: A word is wrong.
    """
    words = _words_of_one_run(typed)
    with _own_hydra():
        try:
            with initialize_config_dir(version_base="1.3", config_dir=str(config.CONF)):
                cfg = compose("config", words, return_hydra_config=True)
                HydraConfig.instance().set_config(cfg)
                with open_dict(cfg):
                    del cfg["hydra"]
                resolved = config.resolve(cfg)
                return resolved, recipe_name(cfg, resolved)
        except (HydraException, OmegaConfBaseException, YAMLError) as reason:
            raise ConfigError(explain(reason, words)) from reason


def _words_of_one_run(typed: list[str]) -> list[str]:
    """Return words in Hydra's spelling.

    Raises:
        ConfigError: A word is no text, is a flag, asks for a sweep, or is none of the command line.
    """
    given: Sequence[object] = typed  # a notebook has no type checker
    if others := [each for each in given if not isinstance(each, str)]:
        raise ConfigError(
            f"a word must be a text such as 'task=mmlu', got {type(others[0]).__name__}; "
            "pass words one by one (*words) and a dict of keys as **keys"
        )
    if flags := [each for each in typed if each.startswith("-")]:
        raise ConfigError(
            f"a word must be KEY=VALUE in Python, got the flag {flags[0]}; leave it out"
        )
    words = rewrite(typed)
    if sweeps := [each for each in words if each in MULTIRUN or is_sweep(each)]:
        got = "an experiment" if sweeps[0] in MULTIRUN else sweeps[0]
        raise ConfigError(
            f"a call must be one run, got {got}, which is a sweep; call run in a loop, or type "
            "the sweep on the command line"
        )
    return words


@contextmanager
def _own_hydra() -> Iterator[None]:
    """Context manager: replace Hydra's state for a composition, then put it back for its owner."""
    Plugins.instance()  # registers sources and plugins, once a process
    instances, resolvers = Singleton._instances, BaseContainer._resolvers  # noqa: SLF001
    kept: dict[type, Any] = {
        kind: one for kind, one in instances.items() if kind not in OF_A_PROGRAM
    }
    kept[ConfigStore] = copy.deepcopy(ConfigStore.instance())
    Singleton._instances, BaseContainer._resolvers = kept, dict(resolvers)  # noqa: SLF001
    try:
        config.register()
        yield
    finally:
        Singleton._instances, BaseContainer._resolvers = instances, resolvers  # noqa: SLF001
