"""The edges of the command line, without a child process."""

import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from harness import config, explain
from harness.arguments import rewrite
from harness.summary import Ending, JobResult, print_summary


def refused(*overrides: str) -> str:
    """Compose something that Hydra refuses; return what the user is told."""
    with (
        pytest.raises((HydraException, OmegaConfBaseException)) as caught,
        initialize_config_dir(version_base="1.3", config_dir=str(config.CONF)),
    ):
        compose("config", overrides=list(overrides))
    return explain.explain(caught.value)


def test_only_a_bare_quant_gets_a_plus() -> None:
    assert rewrite(["quant=int8_row", "task=mmlu"]) == ["+quant=int8_row", "task=mmlu"]
    assert rewrite(["-m", "quant=none,fp8_row"]) == ["-m", "+quant=none,fp8_row"]


@pytest.mark.parametrize(
    "argument",
    [
        "+quant=int8_row",
        "++quant=int8_row",
        "~quant",
        "quant.group_size=64",
        "+quant.foo=1",
        "format@quant.rules.linear.weight=fp8_row",
        "task=mmlu",
        "quantity=3",
        "model.name=quant=x",
        "--help",
        "task.limit=3",
    ],
)
def test_everything_else_is_left_alone_in_a_single_run(argument: str) -> None:
    assert rewrite([argument]) == [argument]


@pytest.mark.parametrize("flag", ["-m", "--multirun", "+experiment=granularity"])
@pytest.mark.parametrize(
    "argument",
    [
        "task.limit=8",
        "task.subjects=[anatomy,virology]",
        "quant.skip=[lm_head]",
        "model.path=/a/b-c_d.e",
        "model.path='a b,c'",
        'model.path="x=y"',
        "model.path=a\\,b",
        "task.answer={_target_:harness.tasks.mmlu_direct.Direct}",
    ],
)
def test_in_a_sweep_a_key_of_a_group_is_left_for_the_jobs(flag: str, argument: str) -> None:
    parser = OverridesParser.create()
    wanted = parser.parse_override(argument)
    [_, rewritten] = rewrite([flag, argument])
    got = parser.parse_override(rewritten)
    assert got.key_or_group == wanted.key_or_group
    # Else it is looked up before the jobs choose their groups.
    assert got.is_sweep_override() or got.is_force_add()
    [[[only]]] = BasicSweeper.split_arguments([got], None)
    again = parser.parse_override(only)
    assert again.value() == wanted.value()


@pytest.mark.parametrize("argument", ["task.limit=null", "data.path=null", "model.path="])
def test_in_a_sweep_nothing_is_forced_because_it_cannot_be_chosen(argument: str) -> None:
    assert rewrite(["-m", argument]) == ["-m", f"++{argument}"]
    assert OverridesParser.create().parse_override(f"++{argument}").is_force_add()


def test_multirun_flag_is_found_anywhere() -> None:
    assert rewrite(["model=tiny", "-m", "quant=none"]) == ["-m", "model=tiny", "+quant=none"]


@pytest.mark.parametrize(
    "argument",
    [
        "task.limit=4,8",
        "task.limit=range(1,5)",
        "quant.group_size=choice(16,32)",
        "task=mmlu,perplexity",
        "+quant=none,int8_row",
        "results_dir='elsewhere'",
        "force=true",
        "hydra.verbose=true",
    ],
)
def test_in_a_sweep_everything_else_is_left_alone(argument: str) -> None:
    assert rewrite(["-m", argument]) == ["-m", argument]


def test_conf_lies_beside_the_package_or_in_it() -> None:
    package = Path(config.__file__).parent
    assert config.CONF in (package / "conf", package.parent / "conf")
    assert (config.CONF / "config.yaml").is_file()


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
    assert f"did you mean {suggestion}?" in line
    assert "_target_" not in text
    assert "append" not in text, "appending it is refused all the same"


def test_unknown_key_that_resembles_nothing_gets_no_suggestion() -> None:
    text = refused("task.qqqqqq=3")
    assert "Legal keys of task (Perplexity): data, segmentation, window" in text
    assert "did you mean" not in text


def test_component_without_keys_says_so() -> None:
    assert "Legal keys of data (EmbeddedData): none" in refused("data=embedded", "data.path=/x")


@pytest.mark.parametrize("override", ["+quant=int8_rwo", "task=mmul", "model=tinny"])
def test_unknown_option_is_answered_with_the_options(override: str) -> None:
    group, _, option = override.lstrip("+").partition("=")
    text = refused(override)
    assert f"{group}/{option}" in text
    for file in (config.CONF / group).glob("*.yaml"):
        assert file.stem in text


@pytest.mark.parametrize(
    ("override", "value"), [("force=maybe", "maybe"), ("allow_targets=3", "allow_targets")]
)
def test_value_of_the_wrong_type_is_answered_with_the_type(override: str, value: str) -> None:
    text = refused(override)
    assert value in text
    assert re.search(r"bool|list", text, re.IGNORECASE), text


def test_group_that_must_be_added_says_so() -> None:
    assert "+experiment" in refused("experiment=granularity")


def test_error_without_a_key_keeps_its_message() -> None:
    assert explain.explain(HydraException("the disk is on fire")) == "the disk is on fire"


def test_key_is_found_in_the_cause_of_an_error() -> None:
    node = OmegaConf.create({"task": {"limit": None, "seed": 42}})
    OmegaConf.set_struct(node, True)
    outer = HydraException("could not")
    with pytest.raises(OmegaConfBaseException) as caught:
        node.task.sede = 3
    outer.__cause__ = caught.value
    assert "Legal keys of task: limit, seed (did you mean task.seed?)" in explain.explain(outer)


# The summary


def job(number: int, ending: Ending = Ending.OK, text: str = "fine") -> JobResult:
    return JobResult(overrides=("model=tiny", f"+quant=recipe{number}"), ending=ending, text=text)


def test_summary_has_a_row_a_job_and_names_the_failed_ones(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    print_summary(
        [
            job(0),
            job(1, Ending.FAILED, "ConfigError: no [/red]"),
            job(2),
            job(3, Ending.UNSUPPORTED),
        ]
    )
    printed = capsys.readouterr()
    assert printed.out == "", "standard output is for results"
    assert "4 jobs, 1 failed, 1 not supported here" in printed.err
    rows = [line for line in printed.err.splitlines() if "recipe" in line]
    assert ["FAILED" in row for row in rows] == [False, True, False, False]
    assert ["unsupported" in row for row in rows] == [False, False, False, True]
    assert "ConfigError: no [/red]" in rows[1], "markup in a message is text"
    assert "model=tiny" not in printed.err, "what all jobs share names none of them"


def test_summary_says_when_none_failed(capsys: pytest.CaptureFixture[str]) -> None:
    print_summary([job(0), job(1)])
    printed = capsys.readouterr().err
    assert "2 jobs, none failed" in printed
    assert "FAILED" not in printed


def test_summary_cuts_no_long_message(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    words = [f"w{number:03}" for number in range(100)]
    print_summary([job(0, Ending.FAILED, " ".join(words)), job(1)])
    printed = capsys.readouterr().err
    assert all(word in printed for word in words)
