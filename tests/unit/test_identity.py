"""The identity of a run does not depend on modules; it finds records of every age."""

import importlib
import itertools
import json
import shlex
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from repository import ROOT

from harness import config
from harness.cli import run as cli
from harness.errors import ConfigError
from harness.identity import ADDED_LATER, BATCH_TOKENS, canonical, class_name, config_hash
from harness.results.store import identity_of, read

RECORDS = sorted((ROOT / "results" / "published").rglob("*--*.json"))


def composed(*overrides: str) -> dict[str, Any]:
    assert cli  # it registers the schema
    with initialize_config_dir(version_base="1.3", config_dir=str(config.CONF)):
        return config.resolve(compose("config", list(overrides)))


def jobs(command: str) -> Iterator[tuple[str, ...]]:
    """Yield the overrides of each job of a command as it is written in a record."""
    overrides = [word for word in shlex.split(command)[3:] if word != "-m"]
    for word in tuple(overrides):
        if word.startswith("+experiment="):
            file = config.CONF / "experiment" / f"{word.partition('=')[2]}.yaml"
            swept = OmegaConf.to_container(OmegaConf.load(file).hydra.sweeper.params)
            assert isinstance(swept, dict)
            overrides += [f"{key}={value}" for key, value in swept.items()]
    choices = []
    for word in overrides:
        key, _, values = word.partition("=")
        choices.append([f"{key}={value}" for value in values.split(",")])
    yield from itertools.product(*choices)


@cache
def identities_today(command: str) -> set[str]:
    return {config_hash(composed(*job), "cpu") for job in jobs(command)}


def test_the_command_of_every_published_record_finds_it_today() -> None:
    assert len(RECORDS) > 50
    lost = []
    for path in RECORDS:
        record = read(path)
        if identity_of(record) not in identities_today(record.command):
            lost.append(path.name)
    assert lost == []


def test_a_class_may_move_to_another_module() -> None:
    before = composed("model=tiny", "+quant=int8_row", "task=perplexity")
    text = json.dumps(before)
    for name, path in config.components().items():
        text = text.replace(f'"{path}"', f'"harness.another.room.{name}"')
    moved = json.loads(text)
    assert moved != before
    assert config_hash(moved, "cpu") == config_hash(before, "cpu")


EARLIER_PATHS = {
    "harness.formats.integer.Integer": {"bits": 8},
    "harness.formats.positive_float.PositiveFloat": {
        "exponent_bits": 8,
        "mantissa_bits": 0,
        "bias": 127,
    },
    "harness.quant.block_maxima.BlockMaxima": {"outer": 4},
    "harness.quant.fake_quant_ops.TargetScale": {"target": 1.0},
    "harness.quant.nvfp4.NVFP4Scale": {},
    "harness.quant.qlora.QLoRAScale": {},
    "harness.quant.range.AbsMax": {},
    "harness.tasks.mmlu_direct.Direct": {},
    "harness.tasks.perplexity_llama_cpp.HalfWindows": {},
}
"""Path of a class in the version before the modules moved -> its keys."""


@pytest.mark.parametrize("path", EARLIER_PATHS)
def test_a_path_of_an_earlier_version_is_still_built(path: str) -> None:
    keys = EARLIER_PATHS[path]
    built = config.build({"_target_": path, **keys}, "quant")
    assert {key: getattr(built, key) for key in keys} == keys
    today = f"{type(built).__module__}.{type(built).__name__}"
    assert class_name(path) == class_name(today)


def test_a_moved_class_that_cannot_be_imported_is_an_error_of_its_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Its new module needs a library that is not installed.
    elsewhere = {"Gone": "harness.no_such_module.Gone"}
    monkeypatch.setattr(config, "components", lambda: elsewhere)
    with pytest.raises(ConfigError, match=r"quant\._target_ must be a class that exists"):
        config.build({"_target_": "harness.former.Gone"}, "quant")


def test_a_component_of_a_users_own_package_keeps_its_path() -> None:
    node = {"_target_": "my_formats.FiveValues"}
    assert canonical(node) == node
    assert class_name("harnessed.formats.Five") == "harnessed.formats.Five"
    assert class_name("harness.formats.integer.Integer") == "Integer"


def test_a_later_field_counts_only_with_another_value_than_earlier_runs_had() -> None:
    node = {"_target_": "harness.models.sources.LocalModel", "path": "x"}
    early = {"_target_": "LocalModel", "path": "x"}
    assert canonical(node | {"attention": None, "baseline": None}) == early
    assert canonical(node | {"attention": "eager"}) == early | {"attention": "eager"}


@pytest.mark.parametrize("name", sorted(ADDED_LATER))
def test_a_later_field_is_one_of_its_class(name: str) -> None:
    module, _, _ = config.components()[name].rpartition(".")
    cls = getattr(importlib.import_module(module), name)
    # The batch size was added to tasks, and has become a key of the engine.
    assert ADDED_LATER[name].keys() <= {item.name for item in fields(cls)} | {BATCH_TOKENS}


@pytest.mark.parametrize("key", ["model", "task"])
def test_a_hash_differs_where_a_value_does(key: str) -> None:
    node = {"_target_": "harness.models.sources.TinyModel", "seed": 0}
    plain = {key: node, "allow_targets": []}
    changed = {key: node | {"seed": 1}, "allow_targets": []}
    assert config_hash(plain, "cpu") != config_hash(changed, "cpu")
