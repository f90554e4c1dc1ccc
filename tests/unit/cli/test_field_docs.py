"""Every key of a component has a meaning that `--help task=NAME` can show."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from repository import CONF

from harness import config
from harness.cli.field_docs import field_docs


def test_every_field_of_every_component_in_conf_has_a_text_below_it() -> None:
    targets = {
        target
        for file in CONF.rglob("*.yaml")
        for target in config.OWN_TARGET.findall(file.read_text())
    }
    found = {target: config._imported(target) for target in targets}
    components = {path: each for path, each in found.items() if dataclasses.is_dataclass(each)}
    assert len(components) > 30
    # What a field has by default may be a component that no file of conf names, such as a range
    # rule.
    for component in [*components.values()]:
        for item in dataclasses.fields(component):
            default: Any = config.default_of(item)
            if dataclasses.is_dataclass(default) and default is not dataclasses.MISSING:
                components[type(default).__name__] = type(default)
    silent = [
        f"{path}.{item.name}"
        for path, component in components.items()
        for item in dataclasses.fields(component)
        if not field_docs(component).get(item.name, "").endswith((".", ")", ":"))
    ]
    assert silent == [], "these fields need a docstring, one clear line each"


@dataclass
class Base:
    inherited: int = 0
    """Of the base,
    in two lines."""
    replaced: int = 0
    """Old."""
    silent: int = 0


@dataclass
class Derived(Base):
    replaced: int = 1
    """New."""


def test_texts_are_in_one_line_inherited_and_replaced() -> None:
    assert field_docs(Derived) == {"inherited": "Of the base, in two lines.", "replaced": "New."}


def test_a_class_without_source_has_no_texts() -> None:
    assert field_docs(dataclasses.make_dataclass("Typed", ["a"])) == {}
