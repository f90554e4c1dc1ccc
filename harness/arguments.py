"""The words of a command line, in the one spelling that Hydra takes."""

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from harness import path_overrides

MULTIRUN = ("-m", "--multirun")
ADDED_GROUPS = ("quant=", "experiment=")


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
