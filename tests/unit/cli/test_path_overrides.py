"""Paths with every character that file systems allow, against Hydra's own parser and a real folder."""

from pathlib import Path

import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from harness.cli.arguments import rewrite
from harness.cli.path_overrides import quoted

NAMES = [
    "a b",
    " lead and trail ",
    "ep=1",
    "x(1)",
    "choice(a,b)",
    "ünï日本",
    "a,b",
    "a#b",
    "a$b",
    "${x}",
    "\\${x}",
    "a\\\\${x}",
    "[v2]",
    "{x}",
    "a{b",
    "~t",
    "~",
    "it's",
    'd"q',
    "'q'",
    '"q"',
    "it\\'s",
    "a\\b",
    "ends with \\",
    "!x",
    "100%",
    "%(asctime)s",
    "a:b",
    "a+b",
    "v1.0@main",
    "null",
    "???",
    "1e5",
    "-m",
    "tab\tand\nline",
    "\n",
    "{",
    "}",
    "(",
    "[",
    "true",
    "1e3",
    "12",
    "@",
    "a@b:c",
    "\\",
    "\\'",
    "\N{SNOWMAN}\N{ROCKET}",
    "\u201cquoted\u201d",
    "a\u2013b",
    "--flag",
    "=x",
    ",",
]


def read(argument: str) -> list[str]:
    """Return the values that Hydra makes of an override for its jobs, interpolations resolved as the harness does."""
    parser = OverridesParser.create()
    found = []
    for [job] in BasicSweeper.split_arguments([parser.parse_override(argument)], None)[0]:
        single = parser.parse_override(job)
        config = OmegaConf.create()
        OmegaConf.update(config, "path", single.value())
        found.append(OmegaConf.to_container(config, resolve=True, throw_on_missing=True)["path"])
    return found


KEYS = [
    "model.path",
    "data.path",
    "data.examples",
    "+data.path",
    "++model.baseline.path",
    "quant.calibration.data.path",
    "task.include_path",
    "task.engine.path",
    "out",
    "results_dir",
    "hydra.run.dir",
    "hydra.sweep.dir",
]


@pytest.mark.parametrize("key", KEYS)
def test_path_that_exists_is_what_it_says(tmp_path: Path, key: str) -> None:
    for name in NAMES:
        (tmp_path / name).mkdir(exist_ok=True)
        for flags in ([], ["-m"]):
            [*_, argument] = rewrite([*flags, f"{key}={tmp_path / name}"])
            assert read(argument) == [str(tmp_path / name)], (name, flags)


def test_relative_path_that_exists_is_no_syntax_and_no_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in NAMES:
        Path(name).mkdir(exist_ok=True)
        [found] = read(quoted(f"model.path={name}", sweep=True))
        assert Path(found).expanduser().resolve() == tmp_path / name, name
        Path(name).rmdir()


def test_folder_that_is_still_to_be_made_has_the_name_that_was_typed() -> None:
    for name in NAMES:
        # Values with a meaning of their own: an interpolation, and quotes of the user.
        if name not in ("~", "null", "???", "choice(a,b)", "'q'", '"q"') and "${" not in name:
            [found] = read(quoted(f"out=/not/there/{name}", sweep=False))
            assert found == f"/not/there/{name}", name


@pytest.mark.parametrize(
    ("argument", "values"),
    [
        ("model.path=a,b", ["a", "b"]),
        ("model.path=a b,it's,[c]", ["a b", "it's", "[c]"]),
        ("model.path='a,b',c d", ["a,b", "c d"]),
        ("model.path=choice(a,b)", ["a", "b"]),
        ('model.path="a b"', ["a b"]),
        ("out=a,b", ["a,b"]),
    ],
)
def test_sweep_over_paths(argument: str, values: list[str]) -> None:
    assert read(quoted(argument, sweep=True)) == values


def test_comma_is_a_sweep_unless_a_folder_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert read(quoted("model.path=a,b", sweep=True)) == ["a", "b"]
    assert read(quoted("model.path=a,b", sweep=False)) == ["a,b"]
    Path("a,b").mkdir()
    assert read(quoted("model.path=a,b", sweep=True)) == ["a,b"]


def test_interpolation_stays_one_unless_a_folder_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WHERE", "/mnt/x y")
    [found] = read(quoted("model.path=${oc.env:WHERE}/a b", sweep=False))
    assert found == "/mnt/x y/a b"
    Path("${oc.env:WHERE}").mkdir()
    assert read(quoted("model.path=${oc.env:WHERE}", sweep=False)) == ["${oc.env:WHERE}"]


def test_other_arguments_are_left_alone() -> None:
    arguments = [
        "task.window=64",
        "model.names=a",
        "path=a b",
        "quant.rules.linear.match=*.path",
        "-m",
        "model.path",
        "model.path=",
        "model.path=null",
        "model.path='a b'",
        "~model.path",
        "--config-dir",
    ]
    assert [quoted(argument, sweep=False) for argument in arguments] == arguments


def test_command_line_quotes_paths_behind_a_sweep() -> None:
    assert rewrite(["model.path=/x/a b", "-m", "+quant=none,int8_row"]) == [
        "-m",
        "++model.path='/x/a b'",
        "+quant=none,int8_row",
    ]
    assert rewrite(["-m", "model.path=/x/a,/x/b c"]) == ["-m", "model.path='/x/a','/x/b c'"]
    assert rewrite(["results_dir=/x/it's"]) == ["results_dir='/x/it\\'s'"]


@pytest.mark.parametrize("key", ["model.name", "quant.name", "++quant.name"])
def test_name_is_any_text(key: str) -> None:
    names = [
        "a b",
        "x(1)",
        "ünï日本",
        "a#b",
        "it's",
        "~t",
        "[v2]",
        "7",
        "true",
        "a=b",
        "a\\b",
        "50 %",
    ]
    for name in names:
        for flags in ([], ["-m"]):
            [*_, argument] = rewrite([*flags, f"{key}={name}"])
            assert read(argument) == [name], (name, flags)


def test_names_with_a_comma_are_a_sweep() -> None:
    assert read(quoted("quant.name=a (1),b", sweep=True)) == ["a (1)", "b"]
    assert read(quoted("quant.name=a (1),b", sweep=False)) == ["a (1),b"]
