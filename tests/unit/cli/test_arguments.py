"""Words of the command line in Hydra's spelling, and what is said of those that are none."""

import re
import shlex

import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser

from harness import __version__
from harness.cli.arguments import rewrite
from harness.errors import ConfigError

PARSERS_WORDS = r"viable|mismatched|recognition|extraneous|EOF|Lexer|expecting \{|hydra\.cc|usage:|full_key|object_type"
"""What a parser says, and a newcomer does not understand."""


def refused(*arguments: str) -> str:
    """Return what a user is told of a command line."""
    with pytest.raises(ConfigError) as caught:
        rewrite(arguments)
    text = str(caught.value)
    assert not re.search(PARSERS_WORDS, text)
    assert "\n" not in text
    return text


def test_only_a_bare_quant_gets_a_plus() -> None:
    assert rewrite(["quant=int8_row", "task=mmlu"]) == ["+quant=int8_row", "task=mmlu"]
    assert rewrite(["-m", "quant=none,fp8_row"]) == ["-m", "+quant=none,fp8_row"]


@pytest.mark.parametrize(
    "argument",
    [
        "+quant=int8_row",
        "++quant=int8_row",
        "~quant.rules",
        "quant.group_size=64",
        "+quant.foo=1",
        "format@quant.rules.linear.weight=fp8_row",
        "task=mmlu",
        "quantity=3",
        "model.name='quant=x'",
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
        "task.answer={_target_:harness.tasks.mmlu.Direct}",
    ],
)
def test_in_a_sweep_a_key_of_a_group_is_left_for_the_jobs(flag: str, argument: str) -> None:
    rewritten = next(word for word in rewrite([flag, argument]) if argument.split("=")[0] in word)
    parser = OverridesParser.create()
    wanted = parser.parse_override(argument)
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


@pytest.mark.parametrize(
    ("word", "said"),
    [
        # no key, no value
        ("hello", "must be KEY=VALUE, got 'hello'"),
        ("task", "task must be task=OPTION, got no option; options: divergence, lm_eval,"),
        ("int8_row", "did you mean quant=int8_row?"),
        ("mmlu", "did you mean task=mmlu?"),
        ("mmluu", "did you mean mmlu?"),
        ("qunt", "did you mean quant=OPTION?"),
        ("task:mmlu", "did you mean task=mmlu?"),
        ("help", "did you mean --help?"),
        ("version", "did you mean --version?"),
        ("=", "has no key"),
        ("=x", "has no key"),
        ("@quant=x", "has no key"),
        ("+", "must be KEY=VALUE"),
        ("~", "must be KEY=VALUE"),
        ("", "got an empty one (''); take it out"),
        ("  ", "got an empty one"),
        ("\n", "got an empty one"),
        ("a b=1", "a key must be names with dots between them, such as task.limit"),
        ("tâsk=1", "a key must be names with dots between them"),
        # values of no grammar
        ("'", "must be KEY=VALUE"),
        ("task.x='abc", "opens a quote (') and does not close it"),
        ('task.x="abc', 'opens a quote (") and does not close it'),
        ("task.x=[a", "opens a [ and does not close it"),
        ("task.x={a", "opens a { and does not close it"),
        ("task.x=(a", "opens a ( and does not close it"),
        ("task.x=a)", "closes a ) that it does not open"),
        ("task.x=[a}", "closes a } that it does not open"),
        ("task.x=a=b", "characters that need quotes (=)"),
        ("task.x=ünï", "characters that need quotes (ï ü)"),
        ("task.x=${", "type"),
        ("task.x=a,", "characters that need quotes (,)"),
        ("task.x=!!python/object/apply:os.system [ls]", "characters that need quotes (!"),
        ("task.x=foo(1)", "calls a function: Unknown function 'foo'"),
        ("task.x=int(a)", "calls a function: invalid literal for int()"),
        ("task.x=" + "[" * 200, "opens a [ and does not close it"),
        ("task.x=" + "9" * 5000, "must be a plain text, a number"),
        # what other programs write
        ("quant=\u201cint8_row\u201d", "left double quotation mark"),
        ("task.limit=\u20138", "type task.limit=-8"),
        ("\u2013m", "type -m"),
        ("task\uff1dmmlu", "type task=mmlu"),
        ("task=\u00a0mmlu", "no-break space"),
        ("task=mmlu\r", "the line ends of Windows; convert it with dos2unix"),
        ("task=mm\0lu", "must have no null character"),
        ("task=\udcff", "must be valid UTF-8"),
        # groups
        (
            "quant=[none,int8_row]",
            "must be one option, got a list of 2; a sweep over them is -m quant=none,int8_row",
        ),
        ("task=5", "task must be task=OPTION, got 5; options:"),
        ("quant=null", "quant must be quant=OPTION, got null"),
        ("~task", "a key at the top must have a value, got ~task"),
        ("~device", "type device=VALUE, or leave the word out"),
        (
            "hydra.searchpath=[/not/there]",
            "must be a list of folders, or of packages as pkg://NAME, got /not/there",
        ),
        ("hydra.searchpath=[pkg://nope]", "must be a list of folders, or of packages"),
        ("hydra.searchpath=[s3://nope]", "got s3://nope; correct the path"),
        (
            "task.x=range(0,2000000000)",
            "at most 10,000 values, got task.x=range(0,2000000000) with 2,000,000,000",
        ),
        ("task.x=range(0,10,0)", "with a step of 0; correct its end or its step"),
        ("task.x=range(5,1e99)", "at most 10,000 values"),
        # flags
        ("--experimental-rerun=run.pickle", "got --experimental-rerun run.pickle, a pickle"),
        ("--exp=run.pickle", "got --experimental-rerun run.pickle, a pickle"),
        ("--foo", "must be a flag (--help,"),
        ("-x", "must be a flag (--help,"),
        ("--task=mmlu", "did you mean task=mmlu?"),
        ("--multrun", "did you mean --multirun?"),
        ("--conf", "a flag must be spelled out, got --conf could match --config-path"),
        ("--cfg", "the flag --cfg/-c must be as"),
        ("--multirun=1", "the flag --multirun/-m must be as"),
    ],
)
def test_word_that_is_no_override_is_answered_with_what_to_type(word: str, said: str) -> None:
    for flags in ([], ["-m"]):
        assert said in refused(*flags, "model=tiny", word)


@pytest.mark.parametrize(
    "value", ["[a", "a=b", "ünï 日本", "it's", 'd"q', "${", "!x", "a)", "foo(1)"]
)
def test_text_that_the_message_proposes_is_read_as_typed(value: str) -> None:
    text = refused(f"task.x={value}")
    # The rest of the line is what a shell reads.
    [word] = shlex.split(text.partition("if it is a text, type ")[2])
    override = OverridesParser.create().parse_override(word)
    assert override.key_or_group == "task.x"
    assert str(override.value()).replace("\\${", "${") == value


def test_a_package_may_be_searched() -> None:
    assert rewrite(["hydra.searchpath=[pkg://harness]"]) == ["hydra.searchpath=[pkg://harness]"]


def test_a_flag_whose_beginning_was_typed_is_the_whole_flag() -> None:
    words = ["task.limit=8", "--multi", "--config-d=a"]
    assert rewrite(words) == ["--multirun", "--config-dir=a", "task.limit=choice(8)"]
    assert rewrite(["--cfg", "job", "--resol"]) == ["--cfg", "job", "--resolve"]
    with pytest.raises(SystemExit):
        rewrite(["--versio"])


def test_flags_move_to_the_front_with_their_values() -> None:
    words = ["model=tiny", "--cfg", "job", "task=mmlu", "--config-dir", "a b", "data=embedded"]
    expected = ["--cfg", "job", "--config-dir", "a b", "model=tiny", "task=mmlu", "data=embedded"]
    assert rewrite(words) == expected
    parsed = get_args_parser().parse_args(rewrite(words))
    assert (parsed.cfg, parsed.config_dir, len(parsed.overrides)) == ("job", "a b", 3)


def test_bare_info_does_not_take_the_first_word_for_its_value() -> None:
    assert get_args_parser().parse_args(rewrite(["model=tiny", "--info"])).info == "all"
    assert get_args_parser().parse_args(rewrite(["model=tiny", "-i", "plugins"])).info == "plugins"


def test_experiment_is_a_sweep_unless_it_is_only_shown() -> None:
    assert rewrite(["experiment=formats"]) == ["-m", "+experiment=formats"]
    assert rewrite(["-m", "experiment=formats"]) == ["-m", "+experiment=formats"]
    assert rewrite(["experiment=formats", "--cfg", "job"]) == [
        "--cfg",
        "job",
        "+experiment=formats",
    ]


def test_part_of_a_swept_recipe_is_left_for_the_jobs() -> None:
    part = "format@quant.rules.linear.weight"
    assert rewrite(["-m", "quant=a,b", f"{part}=int2_group"])[-1] == f"{part}=choice(int2_group)"


@pytest.mark.parametrize("name", ["model", "data", "task", "engine", "quant"])
def test_key_of_a_swept_component_is_left_for_the_jobs(name: str) -> None:
    assert rewrite(["-m", f"{name}.some=8"]) == ["-m", f"{name}.some=choice(8)"]
    assert rewrite(["-m", f"{name}.path=a"]) == ["-m", f"++{name}.path='a'"]


def test_version_is_that_of_this_program(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        rewrite(["model=tiny", "--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"quant-harness {__version__}\n"
