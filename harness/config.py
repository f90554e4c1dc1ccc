"""From YAML to frozen objects.

Hydra composes `conf/` into a `RunConfig`. `build` turns every node with a `_target_` into the
dataclass of that name, children first, and checks what `hydra.utils.instantiate` does not:

1. The target lies in `harness`, or in a module named in `allow_targets`, and is a dataclass.
2. Every key is a field, and every field without a default has a key.
3. Every value has the type of its field; a list becomes a tuple.
"""

import dataclasses
import importlib
import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType, NoneType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from harness.conf_folder import CONF as CONF
from harness.conf_folder import DATA_FOLDERS
from harness.errors import ConfigError
from harness.field_types import UNIONS, is_plain, plain_value, shown
from harness.identity import OWN_PACKAGE, class_name
from harness.output import place
from harness.output.names import local_path

OWN_TARGET = re.compile(rf"_target_: *({OWN_PACKAGE}\.[\w.]+)")
"""A line of YAML that names a component of this package."""
ELSEWHERE: Mapping[str, str] = MappingProxyType(
    {
        "BlockMaxima": "harness.quant.qtype.BlockMaxima",
        "TargetScale": "harness.nn.fake_quant_ops.TargetScale",
    }
)
"""Class name -> path of the components that neither `conf/` nor a door of formats names."""

Component = TypeVar("Component")


@dataclass
class RunConfig:
    """Top level of the configuration. A component is `Any`: each class has fields of its own."""

    model: Any = MISSING
    task: Any = MISSING
    data: Any = MISSING
    engine: Any = field(default_factory=lambda: {"_target_": "harness.engines.local.Local"})
    # Not in the defaults list of conf/config.yaml: so `+quant=NAME` adds it, and a sweep over it
    # may contain the baseline.
    quant: Any = field(
        default_factory=lambda: {"_target_": "harness.recipe.QuantRecipe", "name": "none"}
    )
    device: str = "auto"
    force: bool = False
    results_dir: str = "results"
    # Where the record goes beside its file: an option of `track`, and a model card.
    track: Any = None
    push: str | None = None
    allow_targets: list[str] = field(default_factory=list)


def register() -> None:
    """Register the schema and the resolvers that the files of `conf/` use."""
    ConfigStore.instance().store(name="base_run", node=RunConfig)
    OmegaConf.register_new_resolver("results_folder", _results_folder, replace=True)
    OmegaConf.register_new_resolver("option_groups", _option_groups, replace=True)


def _option_groups() -> str:
    """Return the lines of `--help` on groups and their options, without folders of data."""
    found = GlobalHydra.instance().hydra
    assert found is not None  # noqa: S101 - Hydra prints the help
    hidden = ("hydra", *DATA_FOLDERS)
    return found.format_config_groups(lambda group: group.partition("/")[0] not in hidden)


def _results_folder(text: str) -> str:
    """Return the folder of the records, checked before Hydra creates one for a sweep.

    Raises:
        OutputError: The text is no path, such as an empty one, or nothing can be written there.
    """
    folder = local_path(text, "results_dir")
    place.folder_to_fill(folder, "results_dir")
    return str(folder)


def resolve(config: DictConfig) -> dict[str, Any]:
    """Return the configuration as plain data, interpolations resolved.

    Raises:
        ConfigError: A key at the top is unknown (Hydra accepts `+typo=1`), or a value is missing.
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
        ConfigError: A value is missing, or an interpolation names a key that does not exist.
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
    """Return a recipe whose calibration has the data of the run, unless it names its own.

    Its YAML cannot say `data: ${data}`: Hydra would merge `+data@quant.calibration.data=text` into
    the interpolated node, key by key.
    """
    if not isinstance(node, Mapping):
        return node
    filled = {key: _with_data(value, data) for key, value in node.items()}
    if class_name(node.get("_target_")) == "CalibrationSet" and not filled.get("data"):
        filled["data"] = data
    return filled


def leads_nowhere(reason: OmegaConfBaseException) -> str:
    """Return a message on an interpolation that cannot be resolved, such as `${model.nam}`."""
    said = str(reason).splitlines()[0]
    return (
        f"{reason.full_key or 'a value'} must be a value, or ${{KEY}} to take the value of a key "
        rf"that exists, got: {said}; correct KEY, or type \${{ for a dollar sign"
    )


def build(node: Any, key: str, allow_targets: tuple[str, ...] = ()) -> Any:
    """Turn plain data into frozen objects.

    Args:
        node: A value of the resolved configuration.
        key: Its key, such as `quant.rules.linear`, for messages.
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
        try:
            found = _imported(target)
        except (ImportError, AttributeError):
            # An earlier version had it elsewhere; so do YAML files of users, and old records.
            moved_to = components().get(class_name(target), target)
            if moved_to == target:
                raise
            found = _imported(moved_to)
    except (ImportError, AttributeError) as reason:
        raise ConfigError(
            f"{key}._target_ must be a class that exists, got {target!r}: {reason}"
        ) from reason
    if not (isinstance(found, type) and dataclasses.is_dataclass(found)):
        raise ConfigError(f"{key}._target_ must be a dataclass, got {target!r}")
    return found


def _imported(target: str) -> Any:
    module, _, name = target.rpartition(".")
    return getattr(importlib.import_module(module), name)


@cache
def components() -> Mapping[str, str]:
    """Return class name -> path, for `conf/`, the doors of formats and schemes, and `ELSEWHERE`."""
    found = dict(ELSEWHERE)
    for door in ("harness.formats", "harness.quant"):
        found |= {name: f"{door}.{name}" for name in importlib.import_module(door).__all__}
    for file in CONF.rglob("*.yaml"):
        found |= {class_name(path): path for path in OWN_TARGET.findall(file.read_text())}
    return found


def _construct(cls: type, children: Mapping[str, Any], key: str) -> Any:
    """Return an instance of a dataclass, its keys and values checked."""
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
    for name, item in fields.items():
        if name not in values and default_of(item) is dataclasses.MISSING:
            raise ConfigError(f"{key}.{name} must be given for {cls.__name__}, got nothing")
    try:
        return cls(**values)
    except ValueError as reason:
        raise ConfigError(f"{key}.{reason}") from reason


def default_of(item: dataclasses.Field[Any]) -> Any:
    """Return the default of a field, or `dataclasses.MISSING` if it has none."""
    made = item.default_factory
    return item.default if made is dataclasses.MISSING else made()


def _checked(value: Any, hint: Any, key: str) -> Any:
    """Return a value of the type that a field declares.

    Raises:
        ConfigError: The value is of another type.
    """
    if is_plain(hint):
        return plain_value(value, hint, key)
    if get_origin(hint) in UNIONS:  # a component or null
        if value is None:
            return None
        hint = next(part for part in get_args(hint) if part is not NoneType)
    if get_origin(hint) is Mapping:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{key} must be a mapping from names to values, got {value!r}")
        part = get_args(hint)[1]
        return MappingProxyType({n: _checked(v, part, f"{key}.{n}") for n, v in value.items()})
    return check_component(value, hint, key)


def component(resolved: Mapping[str, Any], key: str, kind: type[Component]) -> Component:
    """Build the component of a top-level key of a resolved configuration.

    Raises:
        ConfigError: It cannot be built, or is of another kind.
    """
    built = build(resolved[key], key, tuple(resolved["allow_targets"]))
    return check_component(built, kind, key)


def check_component(value: Any, kind: type[Component], key: str) -> Component:
    """Return a component of a kind: a class, or a protocol whose members the component has.

    Raises:
        ConfigError: The value is something else, or its name is empty.
    """
    if not dataclasses.is_dataclass(value) or not isinstance(value, kind):
        raise ConfigError(
            f"{key} must be a {kind.__name__} (a node with _target_, such as those in conf/), got "
            f"{shown(value)}"
        )
    fields = {item.name for item in dataclasses.fields(value)}  # type: ignore[arg-type]
    name = getattr(value, "name", None) if "name" in fields else None
    if isinstance(name, str) and not name.strip():
        raise ConfigError(
            f"{key}.name must be a text that tells it apart, got an empty one; leave it "
            "out, or set "
            f"{key}.name=NAME"
        )
    return value
