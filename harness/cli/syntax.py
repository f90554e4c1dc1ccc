"""Check one word of a command line with Hydra's grammar, and say what to type instead.

Hydra's own messages are a parser's ("no viable alternative at input"). The messages here say what
the word must be, what it is, and how to type it.
"""

import math
import re
import shlex
import unicodedata
from functools import cache
from pathlib import Path

from hydra._internal.core_plugins.importlib_resources_config_source import (
    ImportlibResourcesConfigSource,
)
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import RangeSweep
from hydra.errors import HydraException

from harness import paths
from harness.cli.path_overrides import in_quotes
from harness.conf_folder import CONF, DATA_FOLDERS
from harness.errors import ConfigError
from harness.messages import did_you_mean, in_one_line

PLAIN = {
    **dict.fromkeys("\u201c\u201d\u201e\u201f\u00ab\u00bb", '"'),
    **dict.fromkeys("\u2018\u2019\u201a\u201b\u2032", "'"),
    **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212", "-"),
    **dict.fromkeys("\u00a0\u2009\u202f\u3000", " "),
    "\uff1d": "=",
}
"""Characters that chat clients and word processors write, and the plain ones for them."""
BRACKETS = {")": "(", "]": "[", "}": "{"}
MOST_VALUES = 10_000
"""Largest number of values of a range in a sweep."""
SHOWN = 200
"""Largest number of characters of a value in a message."""
CALL = re.compile(r"\w+\(.*\)", re.DOTALL)
"""A value that calls a function of the grammar, such as `range(1,5)`."""
UNREADABLE = (HydraException, ValueError, RecursionError)
"""What the parser raises."""
USUAL = ("task", "quant", "model", "data", "engine")
"""Groups in which the option of a word without `GROUP=` is looked up, in this order."""
FLAG_WORDS = ("help", "version")


def check_characters(word: str) -> None:
    """Raise ConfigError for an empty word, or one with characters that no terminal shows."""
    if problem := _problem_of_characters(word):
        raise ConfigError(problem)


def check(word: str) -> None:
    """Raise ConfigError for an override that Hydra cannot read, or with two options of a group."""
    try:
        override = OverridesParser.create().parse_override(word)
    except UNREADABLE as reason:
        raise ConfigError(_problem(word, reason)) from None
    group = override.key_or_group
    if not group:
        raise ConfigError(_problem(word, ValueError()))
    if override.is_delete() and override.package is None and "." not in group:
        raise ConfigError(
            f"a key at the top must have a value, got {word}, which deletes it; type "
            f"{group}=VALUE, or leave the word out"
        )
    if isinstance(steps := override.value(), RangeSweep):
        _check_range(word, steps)
    if group == "hydra.searchpath":
        _check_folders(override.value())
    if group not in option_groups() or override.is_delete() or override.is_sweep_override():
        return
    value = override.value()
    if isinstance(value, list) and len(value) > 1:
        named = ",".join(map(str, value))
        raise ConfigError(
            f"{group} must be one option, got a list of {len(value)}; a sweep over them "
            f"is -m {group}={named}, or a loop in Python"
        )
    if not isinstance(value, str | list | dict):
        raise ConfigError(_choose(group, f"{value!r}" if value is not None else "null"))


def _check_range(word: str, steps: RangeSweep) -> None:
    """Raise ConfigError for a range of more than `MOST_VALUES`: Hydra lists all of them first."""
    first, last, step = (float(each or 0) for each in (steps.start, steps.stop, steps.step))
    number = (last - first) / step if step else math.inf
    if not number <= MOST_VALUES:
        raise ConfigError(
            f"a range must have at most {MOST_VALUES:,} values, got {word} with "
            f"{f'{number:,.0f}' if step else 'a step of 0'}; "
            "correct its end or its step"
        )


def _check_folders(value: object) -> None:
    """Raise ConfigError for a missing folder of `hydra.searchpath`: Hydra would only warn."""
    for place in value if isinstance(value, list) else [value]:
        scheme, _, rest = str(place).rpartition("://")
        there = (
            ImportlibResourcesConfigSource(provider="", path=str(place)).available()
            if scheme == "pkg"
            else paths.is_folder(Path(rest)) and scheme in ("", "file")
        )
        if not there:
            raise ConfigError(
                "hydra.searchpath must be a list of folders, or of packages as "
                f"pkg://NAME, got {place}; correct the path"
            )


@cache
def option_groups() -> dict[str, tuple[str, ...]]:
    """Return group -> its options in `conf/`; folders that a user adds do not count."""
    data = {CONF / name for name in DATA_FOLDERS}
    folders = sorted({file.parent for file in CONF.rglob("*.yaml")} - {CONF, *data})
    return {
        folder.relative_to(CONF).as_posix(): tuple(
            sorted(file.stem for file in folder.glob("*.yaml"))
        )
        for folder in folders
    }


def _choose(group: str, got: str) -> str:
    return (
        f"{group} must be {group}=OPTION, got {got}; options: {', '.join(option_groups()[group])}"
    )


def _problem_of_characters(word: str) -> str | None:
    """Return what is wrong with the characters of a word, or None."""
    try:
        word.encode()
    except UnicodeEncodeError:
        return (
            f"a word of the command line must be valid UTF-8, got {word!r}; rename the file, "
            "or link to it"
        )
    if not word.strip():
        return (
            f"a word of the command line must be KEY=VALUE, got an empty one ({word!r}); take "
            "it out"
        )
    if word.endswith("\r") and not paths.exists(word.partition("=")[2]):
        return (
            "a word of the command line must not end with a carriage return, got "
            f"{word!r}: the script has the line ends of "
            "Windows; convert it with dos2unix, or sed -i 's/\\r$//' SCRIPT"
        )
    if "\0" in word:
        return f"a word of the command line must have no null character, got {word!r}"
    return None


def _problem(word: str, reason: Exception) -> str:
    """Return what is wrong with a word that Hydra cannot read."""
    if strange := next((each for each in word if each in PLAIN), None):
        plain = "".join(PLAIN.get(each, each) for each in word)
        return (
            f"{word} must be typed with plain characters, got {strange} "
            f"({unicodedata.name(strange).lower()}), as chat clients and "
            f"word processors write; type {shlex.quote(plain)}"
        )
    key, equals, value = word.partition("=")
    name = key.lstrip("+~")
    if not equals:
        return _stray(word)
    if not name.partition("@")[0].strip():
        return (
            f"a word of the command line must be KEY=VALUE, got {word!r}, which has no key "
            "(no spaces stand around the =)"
        )
    if not _is_read(f"{key}=1"):
        return (
            "a key must be names with dots between them, such as task.limit, or GROUP@PLACE, "
            f"got {key!r} in {word!r}"
        )
    is_plain = not any(each in value for each in "\\\"'$")
    literal = f"'{key}=\"{value}\"'" if is_plain else shlex.quote(f"{key}={in_quotes(value)}")
    return (
        f"the value of {name} must be a plain text, a number, a [list] or a {{mapping}}, "
        f"got {value[:SHOWN]}, {_what_is_wrong(value, reason)}; "
        f"if it is a text, type {literal[:SHOWN]}"
    )


def _stray(word: str) -> str:
    """Return what to type for a word without an equals sign."""
    groups, name = option_groups(), word.lstrip("+~")
    if word in FLAG_WORDS:
        return (
            f"a word of the command line must be KEY=VALUE or a flag, got {word}; did you "
            f"mean --{word}?"
        )
    if name in groups:
        return _choose(name, "no option")
    if choosing := [group for group in (*USUAL, *groups) if word in groups[group]]:
        return (
            f"a word of the command line must be KEY=VALUE, got {word}; did you mean "
            f"{choosing[0]}={word}?"
        )
    group, colon, option = word.partition(":")
    if colon and group in groups:
        return (
            f"a word of the command line must be KEY=VALUE, got {word}; did you mean "
            f"{group}={option}?"
        )
    options = (option for group in USUAL for option in groups[group])
    meant = did_you_mean(word, options) or did_you_mean(word, groups, "{}=OPTION")
    return (
        f"a word of the command line must be KEY=VALUE, got {word!r}{meant}; if it "
        "belongs to the word before it, put both into "
        "quotes: 'KEY=a text'"
    )


def _what_is_wrong(value: str, reason: Exception) -> str:
    if CALL.fullmatch(value):
        return f"which calls a function: {in_one_line(reason).partition(': ')[2]}"
    opened: list[str] = []
    if value[:1] in ("'", '"') and value.count(value[0]) % 2:
        return f"which opens a quote ({value[0]}) and does not close it"
    for each in value:
        if each in BRACKETS.values():
            opened.append(each)
        elif each in BRACKETS and (not opened or opened.pop() != BRACKETS[each]):
            return f"which closes a {each} that it does not open"
    if opened:
        return f"which opens a {opened[-1]} and does not close it"
    special = sorted({each for each in value[:SHOWN] if not _is_read(f"key=a{each}")})
    return (
        f"which has characters that need quotes ({' '.join(special)})"
        if special
        else "which is none of them"
    )


def _is_read(word: str) -> bool:
    try:
        OverridesParser.create().parse_override(word)
    except UNREADABLE:
        return False
    return True
