"""A recipe whose parts were changed says so in its name."""

from collections.abc import Iterator
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from repository import ROOT

from harness import config
from harness.cli.recipe_name import _plain, changed_name
from harness.config import CONF
from harness.errors import ConfigError
from harness.results.store import read
from harness.runner.run import RunSpec

RECORDS = sorted((ROOT / "results" / "published").glob("*/*/*/*.json"))


@pytest.fixture(scope="module", autouse=True)
def _hydra() -> Iterator[None]:
    config.register()
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        yield


def name_of(*words: str) -> str:
    """Return the name that a command line gives to its recipe; the first word chooses it."""
    cfg, own = compose("config", [*words]), compose("config", [words[0]])
    resolved: dict[str, Any] = config.resolve(cfg)["quant"]
    return changed_name(
        resolved["name"], as_written=_plain(cfg), own=_plain(own), resolved=resolved
    )


INT2 = "format@quant.rules.linear.weight=int2_group"
HEAD = (
    "+quant.rules.head={_target_: harness.recipe.LayerRule, match: lm_head, weight: "
    "{_target_: harness.quant.Unscaled, element: {_target_: harness.formats.Native, name: bf16}}}"
)
TEXT = ("+data@quant.calibration.data=text", "quant.calibration.data.path=o.txt")


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (("+quant=int8_row", INT2), "int8_row (weight=int2_g128)"),
        (
            ("+quant=int8_row", "+format@quant.rules.linear.input=int8_tensor"),
            "int8_row (input=int8_tensor)",
        ),
        (("+quant=w8a8", "quant.rules.linear.input=null"), "w8a8 (input=null)"),
        (("+quant=int8_row", "backend@quant.backend=scaled_mm"), "int8_row (backend=scaled_mm)"),
        (("+quant=bnb_int8", "quant.backend.threshold=4.0"), "bnb_int8 (backend.threshold=4.0)"),
        (("+quant=int8_row", "quant.skip=[a,b]"), "int8_row (skip=[a, b])"),
        (("+quant=int8_row", "quant.rules.linear.match='*.mlp.*'"), "int8_row (match=*.mlp.*)"),
        (("+quant=int8_row", HEAD), "int8_row (head=LayerRule(match=lm_head, weight=bf16))"),
        (("+quant=w8a8_static", "quant.calibration.seed=3"), "w8a8_static (calibration.seed=3)"),
        (
            ("+quant=w8a8_static", *TEXT),
            "w8a8_static (calibration.data=TextFile(path=o.txt))",
        ),
        (
            ("+quant=int8_row", "quant.skip=[]", INT2),
            "int8_row (skip=[], weight=int2_g128)",
        ),
        # What a name follows is said by it.
        (("+quant=int4_group", "quant.group_size=64"), "int4_g64"),
        (("+quant=int8_g64_real", "quant.group_size=32"), "int8_g32_real"),
        (("+quant=qtype", "quant.rules.linear.weight.text=e2m1k8b32c"), "e2m1k8b32c"),
        # Unless something else was changed, or the name does not follow.
        (("+quant=int4_group", "quant.group_size=64", INT2), "int4_g64 (weight=int2_g64)"),
        (
            ("+quant=int8_group", "quant.rules.linear.weight.granularity.block=[1,32]"),
            "int8_g128 (weight=int8_g32)",
        ),
        (("+quant=torchao_int8_g64", "quant.group_size=32"), "torchao_int8_g64 (group_size=32)"),
        # A name of the user's own wins; that of the recipe is none.
        (("+quant=int8_row", INT2, "quant.name=mine"), "mine"),
        (("+quant=int8_row", INT2, "quant.name=int8_row"), "int8_row (weight=int2_g128)"),
        # The data of the run are told by the record's calibration.
        (("+quant=w8a8_static", "data=embedded"), "w8a8_static"),
    ],
)
def test_changed_parts_are_said(words: tuple[str, ...], name: str) -> None:
    assert name_of(*words) == name


def test_rules_in_another_order_are_another_recipe() -> None:
    rules = {"a": {"match": "*"}, "b": {"match": "x"}}
    own = {"name": "two", "rules": rules}
    turned = {"name": "two", "rules": dict(reversed(rules.items()))}
    assert changed_name("two", as_written=turned, own=own, resolved=turned) == "two (rules=[b, a])"


def test_the_name_changes_no_identity() -> None:
    resolved = config.resolve(
        compose("config", ["+quant=int8_row", INT2, "model=tiny", "data=embedded", "device=cpu"])
    )
    plain, named = RunSpec.build(resolved), RunSpec.build(resolved, "int8_row (weight=int2_g128)")
    assert named.recipe.name == "int8_row (weight=int2_g128)"
    assert plain.recipe.name == "int8_row"
    assert plain.resolved == named.resolved


def test_every_record_on_file_is_found_by_its_name() -> None:
    found = [record for record in map(read, RECORDS) if record.quant is not None]
    assert len(found) > 50
    assert [r.run_id for r in found if r.quant and r.quant.name != r.config["quant"]["name"]] == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("+quant=int8_row", "quant.name=none"),
            r"quant\.name must be one of its own for a recipe",
        ),
        (("+quant=int8_row", "~quant.rules.linear"), r"quant\.name must be left out without rules"),
        (("+quant=none", "+quant.skip=[x]"), r"quant\.skip must be left out without rules"),
        (("+quant=none", "quant.name=mine"), r"quant\.name must be left out without rules"),
        (("+quant=none", "+quant.group_size=64"), r"quant\.group_size must be left out"),
        (("+quant=none", "+backend@quant.backend=scaled_mm"), r"quant\.backend must be left out"),
    ],
)
def test_none_is_the_baseline_and_nothing_else(words: tuple[str, ...], message: str) -> None:
    resolved = config.resolve(compose("config", [*words, "model=tiny", "data=embedded"]))
    with pytest.raises(ConfigError, match=message) as caught:
        RunSpec.build(resolved)
    assert "\n" not in str(caught.value)
