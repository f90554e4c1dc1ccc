"""From YAML to objects: what is built, what is refused, and what makes two runs the same."""

import copy
import importlib
import re
import sys
from collections.abc import Mapping
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from harness import config
from harness.config import CONF
from harness.errors import ConfigError, own_error
from harness.formats.integer import Integer
from harness.identity import VOLATILE, config_hash
from harness.models.loaded import ModelSource
from harness.models.sources.pretrained import LocalModel
from harness.models.sources.tiny import TinyModel
from harness.quant.granularity import Granularity
from harness.runner.run import RunSpec
from harness.tasks.mmlu.mmlu import MMLU

TINY = {"_target_": "harness.models.sources.TinyModel"}
BLOCK = {"_target_": "harness.quant.Granularity", "block": [1, -1]}
PLUG_IN = """
from dataclasses import dataclass
from typing import Literal

import builtins
builtins.sentinel_was_imported = True


@dataclass(frozen=True, kw_only=True)
class Part:
    share: float
    count: int = 1
    exact: bool = False
    label: str = "a"
    kind: Literal["x", "y"] | None = None
    sizes: tuple[int, ...] = ()
    child: object = None

    def __post_init__(self):
        if self.count < 0:
            raise ValueError(f"count must be >= 0, got {self.count}")


def function():
    raise AssertionError("called")


class NotADataclass:
    pass
"""
GROUPS = {
    folder.name: sorted(file.stem for file in folder.glob("*.yaml"))
    for folder in CONF.iterdir()
    if folder.is_dir() and folder.name != "hydra"
}
config.register()  # the command line does it; this file must not need another that imports it


@pytest.fixture
def plug_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module outside `harness` that leaves a mark when it is imported."""
    (tmp_path / "outsider.py").write_text(PLUG_IN)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "outsider", raising=False)
    monkeypatch.delattr("builtins.sentinel_was_imported", raising=False)
    importlib.invalidate_caches()
    return "outsider"


def part(module: str, **fields: object) -> Any:
    node = {"_target_": f"{module}.Part", "share": 0.5} | fields
    return config.build(node, "quant.part", (module,))


def resolved(*overrides: str) -> dict[str, Any]:
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return config.resolve(compose("config", overrides=list(overrides)))


def hashed(*overrides: str) -> str:
    return config_hash(resolved(*overrides), "cpu")


# What is built


def test_nested_nodes_become_frozen_objects() -> None:
    built = config.build(
        {"a": TINY | {"seed": 3}, "b": [{"c": 1}, BLOCK], "d": None}, "quant", allow_targets=()
    )
    assert built["a"] == TinyModel(seed=3)
    assert built["b"][0]["c"] == 1
    assert built["b"][1] == Granularity(block=(1, -1))
    assert built["d"] is None
    assert isinstance(built["b"], tuple)
    with pytest.raises(FrozenInstanceError):
        built["a"].seed = 4
    with pytest.raises(TypeError):
        built["a2"] = 1


def test_lists_become_tuples_at_every_depth(plug_in: str) -> None:
    assert config.build([[1, [2]], []], "key") == ((1, (2,)), ())
    built = part(plug_in, sizes=[1, 2])
    assert built.sizes == (1, 2)
    assert isinstance(hash(built), int), "objects are keys of the model cache"


def test_values_of_the_right_type_pass(plug_in: str) -> None:
    built = part(plug_in, share=1, count=0, exact=True, label="", kind="y", sizes=())
    assert (built.share, built.count, built.exact, built.label, built.kind) == (1, 0, True, "", "y")
    assert part(plug_in, kind=None).kind is None


# What is refused


def test_target_outside_of_harness_is_refused_before_it_is_imported(plug_in: str) -> None:
    node = {"_target_": f"{plug_in}.Part", "share": 0.5}
    with pytest.raises(ConfigError, match=r"quant\._target_ must be a class in harness.*outsider"):
        config.build(node, "quant", ())
    assert plug_in not in sys.modules
    import builtins

    assert not hasattr(builtins, "sentinel_was_imported")
    assert config.build(node, "quant", (plug_in,)).share == 0.5
    assert hasattr(builtins, "sentinel_was_imported"), "the mark works"


def test_target_deep_inside_a_configuration_is_refused_too(plug_in: str) -> None:
    node = {"rules": [{"weight": {"_target_": f"{plug_in}.Part"}}]}
    with pytest.raises(ConfigError, match=r"^quant\.rules\[0\]\.weight\._target_"):
        config.build(node, "quant", ("other",))
    assert plug_in not in sys.modules


def test_target_that_is_not_ours_is_refused() -> None:
    targets: list[object] = [
        "os.system",
        "builtins.eval",
        "harness_evil.Part",
        "harness",
        "harnessx.models.tiny.TinyModel",
        "subprocess.Popen",
        "",
        None,
        7,
        ["harness.models.sources.tiny.TinyModel"],
    ]
    for target in targets:
        with pytest.raises(ConfigError, match=r"model\._target_ must be a class in harness"):
            config.build({"_target_": target}, "model")


def test_target_in_harness_that_is_no_dataclass_is_refused() -> None:
    targets = [
        "harness.models.sources.tiny.Missing",
        "harness.nowhere.Nothing",
        "harness.models.sources.tiny.byte_tokenizer",
        "harness.models.sources.tiny.HIDDEN_SIZE",
        "harness.machine.provenance.subprocess",
        "harness.errors.ConfigError",
        "harness.models.sources.tiny.",
        "harness.",
        "harness..",
    ]
    for target in targets:
        with pytest.raises(ConfigError, match=r"model\._target_ must be a (class|dataclass)"):
            config.build({"_target_": target}, "model")


def test_allowed_module_still_gives_only_dataclasses(plug_in: str) -> None:
    for name in ("function", "NotADataclass", "absent"):
        with pytest.raises(ConfigError, match="_target_ must be a"):
            config.build({"_target_": f"{plug_in}.{name}"}, "model", (plug_in,))
    with pytest.raises(ConfigError, match="_target_ must be a"):
        config.build({"_target_": "os.system", "command": "true"}, "model", ("os",))


def test_unknown_key_is_answered_with_the_legal_ones(plug_in: str) -> None:
    with pytest.raises(ConfigError) as caught:
        part(plug_in, cuont=3)
    message = str(caught.value)
    assert message.startswith("quant.part.cuont must be a key of Part")
    assert "(share, count, exact, label, kind, sizes, child)" in message


def test_required_key_that_is_missing_is_named(plug_in: str) -> None:
    node = {"_target_": f"{plug_in}.Part", "count": 3}
    with pytest.raises(ConfigError, match=r"^quant\.part\.share must be given for Part"):
        config.build(node, "quant.part", (plug_in,))


def test_value_of_the_wrong_type_is_refused(plug_in: str) -> None:
    wrong: list[tuple[str, object, str]] = [
        ("count", "3", "an integer"),
        ("count", True, "an integer"),
        ("count", 3.0, "an integer"),
        ("count", None, "an integer"),
        ("share", "0.5", "a number"),
        ("share", True, "a number"),
        ("share", float("nan"), "a number"),
        ("share", float("inf"), "a number"),
        ("exact", 1, "true or false"),
        ("exact", "true", "true or false"),
        ("label", 3, "a text"),
        ("label", None, "a text"),
        ("kind", "z", "x or y or null"),
        ("kind", True, "x or y or null"),
        ("sizes", [1, "2"], "a list of integers"),
        ("sizes", [1, True], "a list of integers"),
        ("sizes", 3, "a list of integers"),
        ("count", 2**63, "an integer of 64 bits"),
        ("count", -(10**30), "an integer of 64 bits"),
        ("sizes", [1, 10**20], "an integer of 64 bits"),
        ("sizes", {"a": 1}, "a list of integers"),
    ]
    for field, value, expected in wrong:
        with pytest.raises(ConfigError) as caught:
            part(plug_in, **{field: value})
        assert str(caught.value).startswith(f"quant.part.{field} must be {expected}, got ")


def test_check_of_the_class_surfaces_with_the_whole_key(plug_in: str) -> None:
    with pytest.raises(ConfigError, match=r"^quant\.part\.count must be >= 0, got -1$"):
        part(plug_in, count=-1)
    with pytest.raises(ConfigError, match=r"^quant\.part\.child\.bits must be 2\.\.8, got 9$"):
        part(plug_in, child={"_target_": "harness.formats.Integer", "bits": 9})


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["task=mmlu", "task.answer=generate"], "task.answer"),
        (["task=mmlu", "task.data=3"], "task.data"),
        (["+quant=int8_row", "quant.backend=fake"], "quant.backend"),
        (["+quant=int8_row", "+quant.rules.mlp.match=foo"], "quant.rules.mlp"),
        (["+quant=int8_row", "quant.rules.linear.weight=int4"], "quant.rules.linear.weight"),
        (["+quant=int8_row", "quant.rules=all"], "quant.rules"),
    ],
)
def test_plain_value_where_a_component_belongs_is_refused_by_its_key(
    overrides: list[str], key: str, tmp_path: Path
) -> None:
    plain = resolved("model=tiny", "data=embedded", f"results_dir={tmp_path}", *overrides)
    with pytest.raises(ConfigError, match=f"^{re.escape(key)}\\b"):
        RunSpec.build(plain)


@pytest.mark.parametrize("name", ["model", "task", "quant"])
def test_top_level_component_must_be_one(name: str, tmp_path: Path) -> None:
    plain = resolved("model=tiny", "data=embedded", f"results_dir={tmp_path}")
    for value in ("tiny", None, {"seed": 1}, BLOCK):
        with pytest.raises(ConfigError, match=f"^{name}\\b"):
            RunSpec.build(plain | {name: value})


def test_interpolation_reaches_both_the_recipe_and_its_format(tmp_path: Path) -> None:
    spec = RunSpec.build(
        resolved("+quant=int8_group", "quant.group_size=16", f"results_dir={tmp_path}")
    )
    assert spec.recipe.name == "int8_g16"
    weight: Any = spec.recipe.rules["linear"].weight
    assert weight.granularity == Granularity(block=(1, 16), tail="short")
    assert weight.element == Integer(bits=8)


def test_resolve_names_unknown_and_missing_keys() -> None:
    with pytest.raises(ConfigError, match=r"one of model, task, .*; got typo$"):
        resolved("+typo=1")
    with pytest.raises(ConfigError, match=r"^model\.path must be given.*add model\.path=VALUE"):
        resolved("model=local")
    assert resolved("model=local", "model.path=/x")["model"]["path"] == "/x"


def test_top_level_value_of_the_wrong_type_is_refused() -> None:
    for override in ("force=maybe", "allow_targets=3", "results_dir=null"):
        with pytest.raises(ConfigCompositionException):
            resolved(override)


# Identity


def reversed_keys(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {key: reversed_keys(node[key]) for key in reversed(list(node))}
    return node


def test_hash_does_not_depend_on_the_order_of_keys() -> None:
    plain = resolved("+quant=int8_row")
    assert list(reversed_keys(plain)) != list(plain)
    assert config_hash(reversed_keys(plain), "cpu") == config_hash(plain, "cpu")


def test_hash_ignores_what_does_not_change_the_measurement() -> None:
    plain = resolved()
    others: dict[str, object] = {"force": True, "results_dir": "elsewhere", "device": "cpu"}
    for key, value in others.items():
        assert plain[key] != value
        assert config_hash(plain | {key: value}, "cpu") == config_hash(plain, "cpu"), key


def test_hash_tells_device_types_apart() -> None:
    assert config_hash(resolved(), "cpu") != config_hash(resolved(), "cuda")


def test_hash_changes_with_every_other_value() -> None:
    overrides = [
        "model=tiny",
        "model.dtype=float32",
        "task=mmlu",
        "task.window=2047",
        "task.limit_windows=1",
        "data=embedded",
        "data.mmlu_revision=abc",
        "+quant=int8_row",
        "allow_targets=[my_package]",
    ]
    hashes = {override: hashed(override) for override in overrides}
    assert len({hashed(), *hashes.values()}) == len(overrides) + 1, hashes


def leaves(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(node, dict):
        return [leaf for key, child in node.items() for leaf in leaves(child, (*path, key))]
    if isinstance(node, list) and node:
        return [leaf for i, child in enumerate(node) for leaf in leaves(child, (*path, i))]
    return [path]


def test_hash_changes_with_every_leaf_of_a_recipe() -> None:
    plain = resolved("+quant=int8_group", "task=mmlu")
    paths = [path for path in leaves(plain) if path[0] not in VOLATILE]
    assert len(paths) > 20
    seen = {config_hash(plain, "cpu")}
    for path in paths:
        other = copy.deepcopy(plain)
        owner: Any = other
        for step in path[:-1]:
            owner = owner[step]
        owner[path[-1]] = "something else"
        seen.add(config_hash(other, "cpu"))
    assert len(seen) == len(paths) + 1


def test_two_spellings_of_one_recipe_are_one_run() -> None:
    assert hashed("+quant=int8_g64") == hashed("+quant=int8_group", "quant.group_size=64")
    assert hashed("+quant=int8_g64") != hashed("+quant=int8_g128")


def test_baseline_is_one_run_with_and_without_its_name() -> None:
    assert hashed("+quant=none") == hashed()


# conf/


def test_conf_has_the_groups_of_the_documentation() -> None:
    assert {"model", "data", "task", "quant", "format", "experiment"} <= GROUPS.keys()
    assert all(GROUPS.values())


def test_every_target_in_conf_is_a_class_that_exists() -> None:
    for file in sorted(CONF.rglob("*.yaml")):
        # Hydra takes plugins from its own namespace alone.
        own = "hydra_plugins.quant_harness." if file.parent.parent.name == "hydra" else "harness."
        for target in re.findall(r"_target_: *([\w.]+)", file.read_text()):
            module, _, name = target.rpartition(".")
            assert target.startswith(own), (file, target)
            assert isinstance(getattr(importlib.import_module(module), name), type), (file, target)


NEEDED = {
    "local": ["model.path=/x"],
    "model/hub": ["model.repo=owner/name"],
    "gguf": ["model.path=/x"],
    "text": ["data.path=/x"],
    "questions": ["data.path=/x"],
    "parity": ["+quant=int8_row_real"],
    "engine/local": [],
    "vllm": ["engine.path=/x"],
}
"""What an option cannot do without."""


@pytest.mark.parametrize("group", ["model", "data", "engine", "task", "quant"])
def test_every_option_composes_and_builds(group: str, tmp_path: Path) -> None:
    for name in GROUPS[group]:
        needed = NEEDED.get(f"{group}/{name}", NEEDED.get(name, []))
        added = "+" if group == "quant" else ""
        plain = resolved(f"{added}{group}={name}", f"results_dir={tmp_path}", *needed)
        spec = RunSpec.build(plain)
        assert spec.task.name, name
        if group == "quant" and name != "qtype":  # that one is named by its descriptor
            size = f"_g{spec.recipe.group_size}"
            stem = name.replace("_group", size)
            blocks = spec.recipe.name.replace(f"_b{spec.recipe.group_size}", "")
            named = {spec.recipe.name, blocks} & {stem, stem + size}
            assert named, f"{name} is named as its recipe in records, but for the group size"
        if group == "task":
            assert spec.task.name == name.removesuffix("_1k")
        again = RunSpec.build(copy.deepcopy(plain)).model
        assert (again, hash(again)) == (spec.model, hash(spec.model)), "the key of the model cache"
        if group == "model":
            assert spec.model is not None
            assert spec.model.name, name


def test_every_format_composes_into_a_recipe(tmp_path: Path) -> None:
    # A rule for each format, in one recipe: a composition takes longer than all the rest.
    rules = {f"r{number}": name for number, name in enumerate(GROUPS["format"])}
    words = [f"+format@quant.rules.{rule}.weight={name}" for rule, name in rules.items()]
    for rule in rules:
        words += [
            f"+quant.rules.{rule}.{key}" for key in ("match=x", "_target_=harness.recipe.LayerRule")
        ]
    spec = RunSpec.build(resolved("+quant=int8_row", *words, f"results_dir={tmp_path}"))
    for rule, name in rules.items():
        own = yaml.safe_load((CONF / "format" / f"{name}.yaml").read_text())
        assert spec.recipe.rules[rule].weight == config.build(own, "format"), name


@pytest.mark.parametrize("name", GROUPS["experiment"])
def test_every_experiment_sweeps_over_options_that_exist(name: str, tmp_path: Path) -> None:
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        whole = compose("config", overrides=[f"+experiment={name}"], return_hydra_config=True)
        params = OmegaConf.to_container(whole.hydra.sweeper.params)
    assert whole.hydra.mode.name == "MULTIRUN"
    assert isinstance(params, dict)
    assert params
    task = f"task={str(params['task']).split(',')[0]}"  # other keys may be of this task
    keys = []
    for key, choices in params.items():
        values = str(choices).split(",")
        if (group := str(key).lstrip("+")) in GROUPS:
            assert set(values) <= set(GROUPS[group]), "options, which are built above"
            assert len(set(values)) == len(values)
        else:
            keys += [f"{key}={value}" for value in values]
    whole_sweep = [[task, key] for key in keys] or [[task]]
    for words in whole_sweep:
        RunSpec.build(resolved(f"+experiment={name}", *words, f"results_dir={tmp_path}"))


def test_granularity_study_has_thirteen_recipes_and_three_tasks() -> None:
    file = CONF / "experiment" / "granularity.yaml"
    params = yaml.safe_load(file.read_text())["hydra"]["sweeper"]["params"]
    assert len(set(params["+quant"].split(","))) == 13
    assert params["task"].split(",") == ["perplexity", "mmlu_1k", "mmlu_generate_1k"]
    named = {f"{fmt}_{size}" for fmt in ("int8", "fp8") for size in ("tensor", "row")}
    grouped = {f"{fmt}_g{n}" for fmt in ("int8", "fp8") for n in (64, 128, 256, 512)}
    assert set(params["+quant"].split(",")) == {"none"} | named | grouped


def test_task_of_the_study_asks_a_thousand_questions() -> None:
    for name in ("mmlu_1k", "mmlu_generate_1k"):
        task = config.build(resolved(f"task={name}")["task"], "task")
        assert isinstance(task, MMLU)
        assert (task.limit, task.seed, task.shots) == (1000, 42, None)


def test_hydra_writes_nothing_for_a_run_and_beside_the_records_for_a_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    config.register()
    with initialize_config_dir(version_base="1.3", config_dir=str(config.CONF)):
        cfg = compose("config", ["results_dir='~/out'"], return_hydra_config=True)
    assert cfg.hydra.run.dir == "."
    assert cfg.hydra.output_subdir is None
    assert cfg.hydra.sweep.dir == f"{tmp_path}/out/.hydra"
    cfg.results_dir = ""
    with pytest.raises(OmegaConfBaseException) as refused:
        cfg.hydra.sweep.dir  # noqa: B018
    assert (
        str(own_error(refused.value)) == "results_dir must name a place to write, got ''; name one"
    )


def test_conf_lies_beside_the_package_or_in_it() -> None:
    package = Path(config.__file__).parent
    assert config.CONF in (package / "conf", package.parent / "conf")
    assert (config.CONF / "config.yaml").is_file()


def test_a_name_that_says_nothing_is_refused() -> None:
    said = r"^model\.name must be a text .*; leave it out, or set"
    for name in ("", " ", "\n"):
        with pytest.raises(ConfigError, match=said):
            config.check_component(LocalModel(path="/x", name=name), ModelSource, "model")
