"""Python values in Hydra's spelling: read back, they are what was given."""

import math
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from harness.cli import syntax
from harness.cli.spelling import spelled
from harness.errors import ConfigError


def read(word: str) -> Any:
    """Return what Hydra and OmegaConf make of a word."""
    override = OverridesParser.create().parse_override(word)
    assert not override.is_sweep_override()
    return OmegaConf.to_container(OmegaConf.create({"key": override.value()}), resolve=True)["key"]


@pytest.mark.parametrize(
    ("value", "word"),
    [
        (None, "task.limit=null"),
        (True, "task.limit=true"),
        (8, "task.limit=8"),
        (0.5, "task.limit=0.5"),
        ("int8_row", "task.limit=int8_row"),
        (Path("/a/b.c"), "task.limit=/a/b.c"),
        ("8", "task.limit='8'"),
        ("null", "task.limit='null'"),
        ("", "task.limit=''"),
        ("a, b", "task.limit='a, b'"),
        ("it's", r"task.limit='it\'s'"),
        (["a", 1, None], "task.limit=[a,1,null]"),
        ({"M": [1, 2]}, "task.limit={M:[1,2]}"),
    ],
)
def test_values_are_typed_as_a_user_would(value: Any, word: str) -> None:
    assert spelled("task.limit", value) == word


WORDS = ("null", "true", "false", "nan", "inf")
# What cannot be typed at all is refused elsewhere: a missing value is `???`, and terminals show no
# null character.
texts = st.text(st.characters(exclude_categories=["Cs"])).filter(lambda text: text != "???")
KEYS = st.from_regex(r"[a-z_]+[.*,:= -]?[a-z_]+", fullmatch=True).filter(
    lambda key: key not in WORDS
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None, max_examples=200)
@given(values)
def test_any_value_is_read_back(value: Any) -> None:
    word = spelled("key", value)
    assert read(word) == value
    if "\0" not in word:
        syntax.check(word)


@pytest.mark.parametrize(
    "value", ["${oc.env:HOME}", r"\${x}", r"\\${x", "${", "a$b", "\\", "'\\'", "\n"]
)
def test_no_character_of_a_text_is_syntax(value: str) -> None:
    assert read(spelled("key", value)) == value
    assert read(spelled("key", [value, {"a": value}])) == [value, {"a": value}]


def test_infinity_is_a_number() -> None:
    assert read(spelled("key", -math.inf)) == -math.inf


@pytest.mark.parametrize("value", [object(), {1, 2}, b"a", [object()]])
def test_other_types_are_refused_by_name(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"task\.limit must be None, a bool, a number.*got "):
        spelled("task.limit", value)


@pytest.mark.parametrize("name", [b"a", "1", "null", "it's", "!router"])
def test_a_key_that_hydra_would_read_as_something_else_is_refused(name: Any) -> None:
    with pytest.raises(ConfigError, match="must have keys that Hydra can read"):
        spelled("quant.rules", {name: 1})
