"""From YAML to frozen objects.

Hydra composes `conf/` into a `RunConfig`; `build` turns each of its nodes that has a `_target_` into the dataclass of
that name, children first. Everything is checked on the way: the target must lie in `harness` (or in a module named in
`allow_targets`), every key must be a field, every value of a plain type must have that type. `hydra.utils.instantiate`
does none of this, gives lists where fields say tuple, and calls any function a YAML names.
"""

import dataclasses
import importlib
import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cache
from pathlib import Path
from types import MappingProxyType, NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from pydantic import ConfigDict, TypeAdapter, ValidationError

from harness.errors import ConfigError
from harness.identity import OWN_PACKAGE, class_name
from harness.output import place
from harness.output.names import local_path

PACKAGE = Path(__file__).parent
# In a wheel conf/ lies in the package, in a source tree beside it.
CONF = next(folder for folder in (PACKAGE / "conf", PACKAGE.parent / "conf") if folder.is_dir())
SPELLED: Mapping[Any, tuple[str, str]] = {
    int: ("an integer", "integers"),
    float: ("a number", "numbers"),
    str: ("a text", "texts"),
    bool: ("true or false", "true or false"),
    NoneType: ("null", "null"),
}
"""Plain types as a user would write one value of them, and several."""
PLAIN = tuple(SPELLED)
OWN_TARGET = re.compile(rf"_target_: *({OWN_PACKAGE}\.[\w.]+)")

Component = TypeVar("Component")


@dataclass
class RunConfig:
    """Top level of the configuration. A component's node is `Any`, because each has fields of its own."""

    model: Any = MISSING
    task: Any = MISSING
    data: Any = MISSING
    # Not in the defaults list: that is what lets `+quant=NAME` add it (and sweep over it, the baseline included).
    quant: Any = field(
        default_factory=lambda: {"_target_": "harness.recipe.QuantRecipe", "name": "none"}
    )
    device: str = "auto"
    force: bool = False
    results_dir: str = "results"
    allow_targets: list[str] = field(default_factory=list)


def register() -> None:
    """Make the schema known to Hydra as `base_run`, and how `conf/config.yaml` checks `results_dir` before Hydra makes a folder in it."""
    ConfigStore.instance().store(name="base_run", node=RunConfig)
    OmegaConf.register_new_resolver("results_folder", _results_folder, replace=True)


def _results_folder(text: str) -> str:
    """Return the folder of the records; raises OutputError if the text is no path, such as an empty one."""
    folder = local_path(text, "results_dir")
    place.folder_to_fill(folder, "results_dir")
    return str(folder)


def resolve(config: DictConfig) -> dict[str, Any]:
    """Return the configuration as plain data, interpolations resolved.

    Raises:
        ConfigError: A top-level key is unknown (`+typo=1` gets past Hydra), or a mandatory value is missing.
    """
    legal = [item.name for item in dataclasses.fields(RunConfig)]
    if unknown := [str(key) for key in config if key not in legal]:
        raise ConfigError(
            f"every key of the configuration must be one of {', '.join(legal)}; got {unknown[0]}"
        )
    found = plain(config)
    return found | {"quant": _with_data(found["quant"], found["data"])}


def plain(config: DictConfig) -> dict[str, Any]:
    """Return a configuration as plain data, interpolations resolved.

    Raises:
        ConfigError: A mandatory value is missing, or an interpolation leads nowhere.
    """
    try:
        resolved = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as reason:
        raise ConfigError(
            f"{reason.full_key} must be given, got nothing; add {reason.full_key}=VALUE"
        ) from reason
    except OmegaConfBaseException as reason:
        raise ConfigError(leads_nowhere(reason)) from reason
    return typing.cast(dict[str, Any], resolved)


def _with_data(node: Any, data: Any) -> Any:
    """Return a recipe in which calibration that names no data takes those of the run.

    `data: ${data}` in its YAML would not do: Hydra merges `+data@quant.calibration.data=text` into what stands there, key by key.
    """
    if not isinstance(node, Mapping):
        return node
    filled = {key: _with_data(value, data) for key, value in node.items()}
    if class_name(node.get("_target_")) == "CalibrationSet" and not filled.get("data"):
        filled["data"] = data
    return filled


def leads_nowhere(reason: OmegaConfBaseException) -> str:
    """Return what is wrong with an interpolation, such as `${model.nam}`."""
    said = str(reason).splitlines()[0]
    return (
        f"{reason.full_key or 'a value'} must be a value, or ${{KEY}} to take that of a key that is there, got: {said}; "
        r"correct KEY, or type \${ for a dollar sign"
    )


def build(node: Any, key: str, allow_targets: tuple[str, ...] = ()) -> Any:
    """Turn plain data into frozen objects.

    Args:
        node: A value of the resolved configuration.
        key: Where it stands, such as `quant.rules.linear`; errors name it.
        allow_targets: Modules outside `harness` whose classes may be built.

    Raises:
        ConfigError: A target, key or value is not legal.
    """
    if isinstance(node, Mapping):
        children = {
            name: build(child, f"{key}.{name}", allow_targets)
            for name, child in node.items()
            if name != "_target_"
        }
        if "_target_" not in node:
            return MappingProxyType(children)
        return _construct(find_class(node["_target_"], key, allow_targets), children, key)
    if isinstance(node, list | tuple):
        return tuple(build(child, f"{key}[{i}]", allow_targets) for i, child in enumerate(node))
    return node


def find_class(target: object, key: str, allow_targets: tuple[str, ...] = ()) -> type:
    """Return the dataclass that a `_target_` names.

    Raises:
        ConfigError: It is not a dataclass of this package or of `allow_targets`.
    """
    allowed = (OWN_PACKAGE, *allow_targets)
    # Checked before anything is imported: importing a module runs it.
    if not isinstance(target, str) or not any(target.startswith(f"{name}.") for name in allowed):
        raise ConfigError(
            f"{key}._target_ must be a class in {' or '.join(allowed)}, got {target!r}; "
            "name its package in allow_targets if you trust it"
        )
    try:
        found = _imported(target)
    except (ImportError, AttributeError) as reason:
        # A path of an earlier version, in a user's YAML file or in the configuration of an old record.
        moved_to = components().get(class_name(target), target)
        if moved_to == target:
            raise ConfigError(
                f"{key}._target_ must be a class that exists, got {target!r}: {reason}"
            ) from reason
        found = _imported(moved_to)
    if not (isinstance(found, type) and dataclasses.is_dataclass(found)):
        raise ConfigError(f"{key}._target_ must be a dataclass, got {target!r}")
    return found


def _imported(target: str) -> Any:
    module, _, name = target.rpartition(".")
    return getattr(importlib.import_module(module), name)


@cache
def components() -> Mapping[str, str]:
    """Return where each component lies now: those of number formats, and those that files of `conf/` name.

    Returns:
        Class name -> path.
    """
    found: dict[str, str] = {}
    for door in ("harness.formats", "harness.quant"):
        found |= {name: f"{door}.{name}" for name in importlib.import_module(door).__all__}
    for file in CONF.rglob("*.yaml"):
        found |= {class_name(path): path for path in OWN_TARGET.findall(file.read_text())}
    return found


def _construct(cls: type, children: Mapping[str, Any], key: str) -> Any:
    fields = {item.name: item for item in dataclasses.fields(cls)}
    if unknown := sorted(children.keys() - fields.keys()):
        legal = ", ".join(fields) or "none"
        raise ConfigError(
            f"{key}.{unknown[0]} must be a key of {cls.__name__} ({legal}), got an unknown one"
        )
    hints = get_type_hints(cls)
    values = {
        name: _checked(value, hints[name], f"{key}.{name}") for name, value in children.items()
    }
    required = [
        name
        for name, item in fields.items()
        if item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
    ]
    if missing := [name for name in required if name not in values]:
        raise ConfigError(f"{key}.{missing[0]} must be given for {cls.__name__}, got nothing")
    try:
        return cls(**values)
    except ValueError as reason:
        raise ConfigError(f"{key}.{reason}") from reason


def _checked(value: Any, hint: Any, key: str) -> Any:
    """Return a value if it is of the type that a field declares.

    Raises:
        ConfigError: It is not.
    """
    if is_plain(hint):
        _refuse_huge(value, key)
        adapter = TypeAdapter(hint, config=ConfigDict(strict=True, allow_inf_nan=False))
        try:
            return adapter.validate_python(value)
        except ValidationError as reason:
            shown = dict(value) if isinstance(value, Mapping) else value
            raise ConfigError(f"{key} must be {spell(hint)}, got {shown!r}") from reason
    if get_origin(hint) in (Union, UnionType):
        # A component that may be left out.
        if value is None:
            return None
        hint = next(part for part in get_args(hint) if part is not NoneType)
    if get_origin(hint) is Mapping:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{key} must be a mapping from names to values, got {value!r}")
        part = get_args(hint)[1]
        return MappingProxyType({n: _checked(v, part, f"{key}.{n}") for n, v in value.items()})
    return check_component(value, hint, key)


def _refuse_huge(value: Any, key: str) -> None:
    """Raise ConfigError for an integer that no library takes."""
    for part in value if isinstance(value, tuple) else (value,):
        if isinstance(part, int) and not -(2**63) <= part < 2**63:
            raise ConfigError(
                f"{key} must be an integer of 64 bits, got {part}; type a smaller one"
            )


def check_component(value: Any, kind: type[Component], key: str) -> Component:
    """Return a component if it is of a kind: a dataclass, or a protocol whose members it has.

    Raises:
        ConfigError: It is something else, or its name says nothing.
    """
    if not dataclasses.is_dataclass(value) or not isinstance(value, kind):
        shown = dict(value) if isinstance(value, Mapping) else value
        raise ConfigError(
            f"{key} must be a {kind.__name__} (a node with _target_, such as those in conf/), got {shown!r}"
        )
    named = {item.name for item in dataclasses.fields(value)} & {"name"}  # type: ignore[arg-type]
    names = [getattr(value, name) for name in named]
    if any(isinstance(name, str) and not name.strip() for name in names):
        raise ConfigError(
            f"{key}.name must be a text that tells it apart, got an empty one; leave it out, or set {key}.name=NAME"
        )
    return value


def is_plain(hint: Any) -> bool:
    """Say whether a type needs no component: numbers, texts, choices, lists of them, null."""
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        return all(is_plain(part) for part in get_args(hint))
    if origin is tuple:
        return all(part is Ellipsis or is_plain(part) for part in get_args(hint))
    return origin is Literal or hint in PLAIN


def default_of(item: dataclasses.Field[Any]) -> Any:
    """Return the default of a field, or `dataclasses.MISSING` if it has none."""
    made = item.default_factory
    return item.default if made is dataclasses.MISSING else made()


def spell(hint: Any, *, several: bool = False) -> str:
    """Return a type as a user would write its values: one of them, or several."""
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        return " or ".join(spell(part, several=several) for part in get_args(hint))
    if origin in (tuple, list):
        return f"a list of {spell(get_args(hint)[0], several=True)}"
    if origin is Literal:
        return " or ".join(str(part) for part in get_args(hint))
    if isinstance(hint, type) and issubclass(hint, Enum):
        return " or ".join(hint.__members__)
    one, more = SPELLED.get(hint, (str(hint),) * 2)
    return more if several else one
