"""Explain an error of Hydra: what is wrong with the command line, and what to type instead."""

import dataclasses
import re
from collections.abc import Iterator, Sequence
from typing import Any, get_type_hints

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, ValidationError
from yaml import YAMLError

from harness import config, field_types
from harness.cli.hydra_messages import MESSAGES
from harness.cli.syntax import option_groups
from harness.errors import own_error
from harness.messages import did_you_mean, in_one_line

CHOOSING = ("quant=", "model=", "task=", "layout=")
NO_CHOICE = r"(?:In '.*?': )?Could not override '(.+?)'\. (?:No match|Did you mean).*"
"""Hydra's message on an override of a group for which the configuration has chosen nothing."""


def explain(reason: BaseException, words: Sequence[str] = (), name: str = "config") -> str:
    """Return a message: what is wrong with a command line, and what to type instead.

    Args:
        reason: The error, raised before a job began.
        words: The command line.
        name: The configuration file of the command.
    """
    if own := own_error(reason):
        return str(own)
    causes = list(_causes(reason))
    merged = re.match(r"Error merging override (.+)", str(reason))
    got = merged[1] if merged else "another type"
    if text := next((text for cause in causes if (text := _of_cause(cause, got, words))), None):
        return text
    line = in_one_line(reason)
    if line.startswith("Cannot find primary config") and any(
        word.startswith(("--config-path", "-cp")) for word in words
    ):
        return (
            f"--config-path must be a folder with {name}.yaml, got one without; folders of "
            "your own are added with --config-dir"
        )
    if found := re.fullmatch(NO_CHOICE, line):
        return _no_such_choice(found[1], words, name)
    for pattern, message in MESSAGES:
        if found := re.fullmatch(pattern, line):
            return message.format(*found.groups(), groups=", ".join(option_groups()))
    if isinstance(reason, OSError) and not isinstance(reason, HydraException):
        # Hydra writes for a sweep, into the folder of the records, and for hydra.run.dir=DIR.
        is_typed = any(word.lstrip("+").startswith("hydra.run.dir=") for word in words)
        option = "hydra.run.dir" if is_typed or name == "export" else "results_dir"
        return f"{option} must be a folder that can be written, got: {line}"
    others = [text for cause in causes[1:] if (text := in_one_line(cause)) and text not in line]
    kind = "" if isinstance(reason, HydraException | ValueError) else f"{type(reason).__name__}: "
    return kind + "; ".join([line, *others])


def _of_cause(cause: BaseException, got: str, words: Sequence[str]) -> str | None:
    """Return a message on an error that names an option, file or key; None for other errors.

    Args:
        cause: The error, or a cause of it.
        got: The word of the command line that Hydra was merging.
        words: The command line.
    """
    if isinstance(cause, MissingConfigException) and cause.options:
        return _unknown_option(cause, words)
    if isinstance(cause, RecursionError):
        return "a file of the configuration must be plain YAML, got one that is nested too deeply"
    if isinstance(cause, YAMLError):
        return f"a file of the configuration must be plain YAML, got: {in_one_line(cause)}"
    if isinstance(cause, InterpolationResolutionError):
        return config.leads_nowhere(cause)
    parent, key = getattr(cause, "parent_node", None), getattr(cause, "key", None)
    if not isinstance(parent, DictConfig) or key is None:
        return None
    if key not in parent and not OmegaConf.is_missing(parent, key):
        return _unknown_key(parent, str(key))
    return _wrong_type(parent, str(key), got, cause) if isinstance(cause, ValidationError) else None


def _causes(reason: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and its causes, the error first."""
    while reason is not None:
        yield reason
        reason = reason.__cause__


def _unknown_option(reason: MissingConfigException, words: Sequence[str]) -> str:
    group, _, option = str(reason.missing_cfg_file).rpartition("/")
    options = list(reason.options or ())
    asked = re.match(r"In '(.+?)'", str(reason))
    typed = [word.lstrip("+").partition("=")[0] for word in words if option in word]
    key = next((key for key in typed if key.partition("@")[0] == group), None)
    # If it was not typed, a file of the configuration names it.
    by = f" in {asked[1]}.yaml" if asked and key is None else ""
    meant = did_you_mean(option, options, f"{key or group}={{}}")
    return (
        f"{key or group} must be one of its options, got {option or 'nothing'}{by}{meant}\n"
        f"Options of {group}: {', '.join(options)}"
    )


def _unknown_key(parent: DictConfig, key: str) -> str:
    path = str(parent._get_full_key(None))  # noqa: SLF001 - no public way to a node's path
    whole = f"{path}.{key}" if path else key
    target = str(parent.get("_target_", "")).rpartition(".")[2]
    place = f"{path} ({target})" if path and target else path or "the configuration"
    legal = [str(name) for name in parent if name not in ("_target_", "hydra")]
    meant = did_you_mean(key, legal, f"{path}.{{}}" if path else "{}")
    return (
        f"{whole} must be a key of {place}, got an unknown one{meant}\n"
        f"Legal keys of {place}: {', '.join(legal) or 'none'}"
    )


def _wrong_type(parent: DictConfig, key: str, got: str, reason: ValidationError) -> str:
    """Return a message on a value of another type than the schema's."""
    kind: Any = OmegaConf.get_type(parent)
    hints = get_type_hints(kind) if dataclasses.is_dataclass(kind) else {}
    what = field_types.spell(hints[key]) if key in hints else "of another type"
    return f"{reason.full_key or key} must be {what}, got {got}"


def _no_such_choice(key: str, words: Sequence[str], name: str) -> str:
    """Return a message on a choice that the configuration does not have."""
    group, at, _ = key.partition("@")
    others = [word for word in words if word.lstrip("+").partition("=")[0] != key]
    found, known = _choices(others, name), option_groups()
    if group not in known:
        return (
            f"{key} must begin with a group, got an unknown "
            f"one{did_you_mean(group, known)}\nGroups: {', '.join(known)}"
        )
    if not at and group not in found:
        legal = ", ".join(dict.fromkeys([*(each for each in found if "/" not in each), "quant"]))
        return (
            f"{key} must be a group of this command ({legal}), got one of another command "
            "or of parts; a part is chosen as "
            "GROUP@PLACE=OPTION"
        )
    if not at:
        named = " or ".join(f"{place}=OPTION" for place in found[group])
        return f"{group} must say what it is chosen for, got no place; type {named}"
    if places := found.get(group):
        return (
            f"{key} must be one of the choices of this command line, got an unknown "
            f"one{did_you_mean(key, places)}\n"
            f"Choices: {', '.join(places)}"
        )
    hint = "" if "quant" in found else "; choose a recipe first, as in quant=int8_row"
    return (
        f"{key} must be a part of what the command line chooses, got one that nothing there "
        f"has{hint}"
    )


def _choices(words: Sequence[str], name: str) -> dict[str, list[str]]:
    """Return group -> keys that choose its options, such as `format@quant.rules.linear.weight`."""
    # Only the groups of components matter; of a sweep, its first option.
    chosen = [word.partition(",")[0] for word in words if word.lstrip("+").startswith(CHOOSING)]
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(config.CONF)):
            loader = GlobalHydra.instance().config_loader()
            found = loader.compute_defaults_list(name, chosen, RunMode.RUN).overrides
    except HydraException:
        return {}
    return {group: sorted(keys) for group, keys in found.known_choices_per_group.items()}
