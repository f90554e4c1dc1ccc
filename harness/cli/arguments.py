"""Check the words of a command line, and put them into the one spelling that Hydra reads."""

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from harness import __version__
from harness.cli import old_words, path_overrides, syntax
from harness.errors import ConfigError
from harness.messages import did_you_mean

MULTIRUN = ("-m", "--multirun")
SHOWN = ("--cfg", "-c", "--info", "-i", "--help", "-h", "--hydra-help", "--run", "-r")
"""Flags with which no sweep starts."""
RERUN = "--experimental-rerun"
"""Flag of Hydra that loads a pickle; it is an error here."""
ADDED_GROUPS = ("quant=", "experiment=")
"""Groups that are not in the defaults list."""
COMPONENTS = ("model", "data", "task", "engine", "layout", "quant")
"""Keys at the top that hold a component."""


def rewrite(arguments: Sequence[str]) -> list[str]:
    """Return the arguments in Hydra's spelling.

    1. Flags are spelled out, and move to the front: Hydra finds none behind an override.
    2. A key of an earlier version becomes today's key; see `harness.cli.old_words`.
    3. `quant=X` becomes `+quant=X`, `experiment=X` likewise: the defaults list does not have them.
    4. An experiment is a sweep, with `-m` or without it.
    5. Paths are quoted; see `harness.cli.path_overrides`.
    6. In a sweep, `task.limit=8` becomes `task.limit=choice(8)`. Hydra first composes a sweep
       without its swept groups, and would look for the key in the default task. A choice applies
       to the jobs alone. `choice` takes no null, empty or quoted value: a key with such a value
       gets `++`, so that Hydra accepts it, and the job reports a key that is unknown.

    Raises:
        ConfigError: A word is neither a flag nor an override.
        SystemExit: `--version` was typed; the version is printed.
    """
    arguments = [_spelled_out(argument) for argument in arguments]
    if "--version" in arguments:
        sys.stdout.write(f"quant-harness {__version__}\n")
        sys.exit(0)
    for argument in arguments:
        syntax.check_characters(argument)
    flags, words = _flags_and_words(arguments)
    old_words.check_tasks(words)
    words = [added(old_words.renewed(word)) for word in words]
    multirun = any(flag in MULTIRUN for flag in flags)
    experiment = any(word.startswith("+experiment=") for word in words)
    if experiment and not multirun and not any(flag in SHOWN for flag in flags):
        flags, multirun = ["-m", *flags], True
    words = [path_overrides.quoted(word, sweep=multirun) for word in words]
    for word in words:
        syntax.check(word)
    return [*flags, *(_for_jobs(word) if multirun else word for word in words)]


def added(word: str) -> str:
    """Return a word, with `+` if its group is not in the defaults list, as in `+quant=X`."""
    return f"+{word}" if word.startswith(ADDED_GROUPS) else word


def _flags_and_words(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split a command line into flags, with their values, and all other words."""
    parser = get_args_parser()
    # The parser's own `error` prints a page and exits.
    parser.error = _refuse_flag  # type: ignore[method-assign]
    parsed = parser.parse_intermixed_args(list(arguments))
    if parsed.experimental_rerun:
        raise ConfigError(
            f"a run must be started by its own command line, got {RERUN} "
            f"{parsed.experimental_rerun}, a pickle: reading one runs "
            "whatever code is in it; repeat the command that the record names"
        )
    words: list[str] = parsed.overrides
    flags, left = [], list(words)
    for argument in arguments:
        if left and argument == left[0]:
            del left[0]
        else:
            flags.append(argument)
    # Without a value, `--info` would take the first word as its value.
    if flags and flags[-1] in ("--info", "-i"):
        flags[-1] = "--info=all"
    return flags, [] if "--hydra-help" in flags else words


def _refuse_flag(message: str) -> NoReturn:
    """Raise ConfigError for an error message of the parser of flags."""
    _, unrecognized, words = message.partition("unrecognized arguments: ")
    if not unrecognized:
        flag, _, what = message.removeprefix("argument ").partition(": ")
        if flag == "ambiguous option":
            raise ConfigError(f"a flag must be spelled out, got {what}")
        raise ConfigError(
            f"the flag {flag} must be as `python -m harness --help` shows, got: {what}"
        )
    word = words.split()[0]
    name, equals, value = word.lstrip("-").partition("=")
    meant = f"; did you mean {name}={value}?" if equals else did_you_mean(word, flag_names())
    raise ConfigError(
        f"a word that begins with a dash must be a flag ({', '.join(flag_names())}), got "
        f"{word}{meant or ''}; "
        "a setting is KEY=VALUE, without dashes"
    )


def flag_names() -> list[str]:
    """Return the flags of Hydra that may be typed."""
    parser: argparse.ArgumentParser = get_args_parser()
    actions = parser._actions  # noqa: SLF001 - argparse has no public list
    found = [flag for action in actions for flag in action.option_strings[:1]]
    return [flag for flag in found if flag != RERUN]


def _spelled_out(argument: str) -> str:
    """Return a flag in full; the parser accepts any unique beginning of a flag."""
    name, equals, value = argument.partition("=")
    begun = [flag for flag in (*flag_names(), RERUN) if flag.startswith(name)]
    if len(begun) != 1 or not name.startswith("--") or name == "--":
        return argument
    return f"{begun[0]}{equals}{value}"


def _for_jobs(argument: str) -> str:
    """Return an override of a component's key, in a sweep, so that it applies to the jobs only."""
    key, equals, value = argument.partition("=")
    place = key.rpartition("@")[2]
    of_part = place.split(".")[0] in COMPONENTS and "." in place
    if not equals or not of_part or is_sweep(argument):
        return argument
    forced = value in ("", "null") or value[0] in "'\""
    return f"++{argument}" if forced else f"{key}=choice({value})"


def is_sweep(argument: str) -> bool:
    """Return whether an override sweeps over values; True for a word that Hydra cannot read."""
    try:
        return OverridesParser.create().parse_override(argument).is_sweep_override()
    except HydraException:  # Hydra will say what is wrong with it
        return True
