"""What a user is told of a configuration that Hydra cannot compose, without a child process."""

import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from harness import config
from harness.cli import run as cli
from harness.cli.arguments import rewrite
from harness.cli.explain import explain
from harness.errors import ConfigError

PARSERS_WORDS = r"viable|mismatched|Could not|Error merging|full_key|object_type|append|ListConfig|not Optional|\(type "
"""What Hydra and OmegaConf say, and a newcomer does not understand."""
WEIGHT = "format@quant.rules.linear.weight"
Kinds = type[Exception] | tuple[type[Exception], ...]
assert cli  # it makes the schema known


REFUSED = (HydraException, OmegaConfBaseException)


def refused(*overrides: str, kind: Kinds = REFUSED) -> str:
    """Compose something that Hydra refuses; return what the user is told."""
    words = [word for word in rewrite(overrides) if word != "-m"]
    with initialize_config_dir(version_base="1.3", config_dir=str(config.CONF)):
        loader = GlobalHydra.instance().config_loader()
        with pytest.raises(kind) as caught:
            loader.load_configuration("config", overrides=words, run_mode=RunMode.RUN)
    text = explain(caught.value, words)
    assert not re.search(PARSERS_WORDS, text)
    return text


@pytest.mark.parametrize(
    ("overrides", "key", "legal", "suggestion"),
    [
        (["task=mmlu", "task.limt=3"], "task.limt", ["shots", "limit", "seed"], "task.limit"),
        (["task.widow=3"], "task.widow", ["window", "limit_windows"], "task.window"),
        (["+quant=int8_row", "quant.skp=[]"], "quant.skp", ["rules", "skip"], "quant.skip"),
        (
            ["+quant=int8_row", "quant.rules.linear.mtch=a"],
            "quant.rules.linear.mtch",
            ["match", "weight"],
            "quant.rules.linear.match",
        ),
        (["forse=true"], "forse", ["force", "results_dir", "device"], "force"),
        (["model=tiny", "model.sede=3"], "model.sede", ["seed", "dtype"], "model.seed"),
    ],
)
def test_unknown_key_is_answered_with_legal_keys_and_a_suggestion(
    overrides: list[str], key: str, legal: list[str], suggestion: str
) -> None:
    text = refused(*overrides)
    assert key in text
    line = next(line for line in text.splitlines() if line.startswith("Legal keys of "))
    named = re.split(r"[ ,:()]+", line)
    assert set(legal) <= set(named)
    assert f"did you mean {suggestion}?" in text
    assert "_target_" not in text
    assert "append" not in text, "appending it is refused all the same"


def test_unknown_key_that_resembles_nothing_gets_no_suggestion() -> None:
    text = refused("task.qqqqqq=3")
    assert "Legal keys of task (Perplexity): data, segmentation, window" in text
    assert "did you mean" not in text


def test_component_without_keys_says_so() -> None:
    assert "Legal keys of data (EmbeddedData): none" in refused("data=embedded", "data.path=/x")


@pytest.mark.parametrize(
    ("words", "group", "meant"),
    [
        (["quant=int8_rwo"], "quant", "quant=int8_row"),
        (["task=perplexityy"], "task", "task=perplexity"),
        (["model=tinyy"], "model", "model=tiny"),
        (["data=embeded"], "data", "data=embedded"),
        (["experiment=formts"], "experiment", "experiment=formats"),
        (["quant=int8_row", f"{WEIGHT}=int8_rwo"], "format", f"{WEIGHT}=int8_row"),
        (
            ["quant=int8_row", "backend@quant.backend=torchoa"],
            "backend",
            "backend@quant.backend=torchao",
        ),
        (["engine=vlm"], "engine", "engine=vllm"),
        (["+model@model.baseline=tinyy", "model=hub"], "model", "model@model.baseline=tiny"),
        (["task="], "task", None),
        (["hydra/launcher=joblob"], "hydra/launcher", "hydra/launcher=joblib"),
    ],
)
def test_unknown_option_is_answered_with_the_options(
    words: list[str], group: str, meant: str | None
) -> None:
    text = refused(*words)
    first, second = text.splitlines()
    assert "must be one of its options, got" in first
    assert f"did you mean {meant}?" in first if meant else "did you mean" not in first
    assert second.startswith(f"Options of {group}: ")
    for file in (config.CONF / group).glob("*.yaml"):
        assert file.stem in second.replace(",", "").split()


def test_option_that_a_file_names_is_told_with_the_file(tmp_path: Path) -> None:
    (tmp_path / "quant").mkdir()
    (tmp_path / "quant/mine.yaml").write_text(
        "defaults:\n  - /format@rules.x.weight: int8_rwo\nname: mine\n"
    )
    text = refused("quant=mine", f"hydra.searchpath=[{tmp_path}]")
    assert (
        "format must be one of its options, got int8_rwo in quant/mine.yaml; did you mean "
        "format=int8_row?" in text
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            "a: !!python/object/apply:os.system [ls]\n",
            "must be plain YAML, got: could not determine a constructor for the tag",
        ),
        ("a: [1\n", "must be plain YAML, got: while parsing"),
        ("a: {\n", "must be plain YAML, got: while parsing"),
        ("a: 1\na: 2\n", "must be plain YAML, got: while constructing a mapping"),
        ("\t- a\n", "must be plain YAML, got: while scanning"),
        ("- a\n- b\n", "must hold keys and values, got a list"),
        ("\0\1\2", "must be plain YAML"),
        ("a: " + "[" * 3000 + "\n", "nested too deeply"),
    ],
)
def test_damaged_file_of_a_folder_of_ones_own(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "quant").mkdir()
    (tmp_path / "quant/mine.yaml").write_text(content)
    text = refused("quant=mine", f"hydra.searchpath=[{tmp_path}]", kind=Exception)
    assert said in text
    assert "mine" in text or "nested" in said, "the file is named"
    assert len(text) < 600


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["force=maybe"], "force must be true or false, got force=maybe"),
        (["force="], "force must be true or false, got force="),
        (["allow_targets=3"], "allow_targets must be a list of texts, got allow_targets=3"),
        (["device=null"], "device must be a text, got device=null"),
        (["device={a:1}"], "device must be a text, got device={a:1}"),
        (["device.a=1"], "device must be a text, got device.a=1"),
        (["hydra.job.chdir=abc"], "hydra.job.chdir must be true or false or null, got"),
        (["hydra.mode=foo"], "hydra.mode must be RUN or MULTIRUN or null, got hydra.mode=foo"),
        (["hydra.foo=1"], "hydra.foo must be a key of hydra, got an unknown one"),
        (["tsk=mmlu"], "did you mean task?"),
        (["task.limt=8"], "did you mean task.limit_windows?"),
        (["task={a:1}"], "task.a must be a key of task (Perplexity)"),
        (
            ["layout=gptq"],
            "layout must be a group of this command (task, track, engine, data, model, quant)",
        ),
        (["format=int8_row"], "a part is chosen as GROUP@PLACE=OPTION"),
        (
            ["quant=int8_row", "format=int8_row"],
            f"format must say what it is chosen for, got no place; type {WEIGHT}=OPTION",
        ),
        ([f"{WEIGHT}=int8_row"], "choose a recipe first, as in quant=int8_row"),
        (
            ["quant=int8_row", "format@quant.rules.linear.weihgt=int8_row"],
            f"did you mean {WEIGHT}?",
        ),
        (["quant=int8_row", "backend@quant.bakend=fake"], "did you mean backend@quant.backend?"),
        (["foo@bar=1"], "must choose an option of a group, got foo@bar=1; groups: backend,"),
        (
            ["quant=int8_row", "quant=int4_row"],
            "quant must be chosen once, got two options; a sweep over them is -m quant=A,B",
        ),
        (["+task=mmlu"], "task must be chosen once"),
        (["++task=mmlu"], "a group must be chosen without ++, got ++task=mmlu; type task=mmlu"),
        (
            ["+task.window=3"],
            "a key with a + must be a new one, got task.window, which is there; type task.window=3",
        ),
        (["~task.windw"], "a key after ~ must be one that is there, got ~task.windw"),
        (["~task.window=5"], "type ~task.window"),
        (
            ["device=cpu,cuda"],
            "device must have one value, got cpu,cuda; a sweep over them needs -m",
        ),
        (["task.window=8,9"], "a list is 'task.window=[8,9]'"),
        (
            ["task.window=range(1,5)"],
            "task.window must have one value, got range(1,5); a sweep needs -m",
        ),
    ],
)
def test_message_says_what_must_be_what(words: list[str], said: str) -> None:
    assert said in refused(*words)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("${foo}", "Interpolation key 'foo' not found"),
        ("${device}", "Recursive interpolation detected"),
        ("${oc.env:NO_SUCH_VARIABLE}", "'NO_SUCH_VARIABLE' not found"),
        ("${eval:1}", "Unsupported interpolation type eval"),
    ],
)
def test_interpolation_that_leads_nowhere(value: str, said: str) -> None:
    with initialize_config_dir(version_base="1.3", config_dir=str(config.CONF)):
        composed = compose("config", overrides=rewrite([f"device={value}"]))
    with pytest.raises(ConfigError) as caught:
        config.resolve(composed)
    text = str(caught.value)
    assert text.startswith(
        "device must be a value, or ${KEY} to take the value of a key that exists, got: "
    )
    assert said in text
    assert "\n" not in text
    assert not re.search(PARSERS_WORDS, text)


def test_what_hydra_raises_itself_is_one_line() -> None:
    assert explain(RuntimeError("Invalid plugin 'os.system': not the hydra_plugins package")) == (
        "a launcher or sweeper must be one that `python -m harness --info plugins` lists, got "
        "os.system"
    )
    assert explain(ValueError("two\nlines")) == "two lines"
    assert explain(KeyError("x")) == "KeyError: 'x'"
    assert explain(ConfigError("as it is")) == "as it is"


def test_error_without_a_key_keeps_its_message() -> None:
    assert explain(HydraException("the disk is on fire")) == "the disk is on fire"


def test_key_is_found_in_the_cause_of_an_error() -> None:
    node = OmegaConf.create({"task": {"limit": None, "seed": 42}})
    OmegaConf.set_struct(node, True)
    outer = HydraException("could not")
    with pytest.raises(OmegaConfBaseException) as caught:
        node.task.sede = 3
    outer.__cause__ = caught.value
    assert "Legal keys of task: limit, seed" in explain(outer)
