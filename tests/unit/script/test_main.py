"""`quant-harness COMMAND ...` in this process: what is printed, and what a command is handed."""

import importlib
import signal
import sys
from collections.abc import Callable, Iterator

import pytest

from harness import __version__
from harness.machine import provenance
from harness.script import main as script

Call = Callable[..., None]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch) -> Iterator[Call]:
    """Run the script with these words; signals are handled as before at the end."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def run(*words: str) -> None:
        monkeypatch.setattr(sys, "argv", ["/x/bin/quant-harness", *words])
        monkeypatch.setattr(sys, "orig_argv", ["/x/bin/python", "/x/bin/quant-harness", *words])
        script.main()

    yield run
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("words", [(), ("--help",), ("-h",)])
def test_help_names_every_command_and_how_completion_is_installed(
    words: tuple[str, ...], call: Call, capsys: pytest.CaptureFixture[str]
) -> None:
    call(*words)
    printed = capsys.readouterr().out
    assert printed.startswith("usage: quant-harness COMMAND")
    for name, command in script.COMMANDS.items():
        assert f"  {name} " in printed
        assert command.about in printed
    for shell in ("bash", "zsh", "fish"):
        assert f"--shell-completion {shell}" in printed
    assert max(map(len, printed.splitlines())) <= 100


def test_version(call: Call, capsys: pytest.CaptureFixture[str]) -> None:
    call("--version")
    assert capsys.readouterr().out == f"quant-harness {__version__}\n"


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("expert", "got expert; did you mean quant-harness export?"),
        ("rnu", "got rnu; did you mean quant-harness run?"),
        ("task=mmlu", "got task=mmlu; did you mean quant-harness run task=mmlu?"),
        ("-m", "got -m; did you mean quant-harness run -m?"),
        (
            "nonsense",
            "the command must be one of run, report, compare, export, tensor, anchors, got nonsense",
        ),
        ("--shell-completion", "--shell-completion must have a shell: bash, zsh, fish"),
    ],
)
def test_an_unknown_command_is_answered_with_what_to_type(
    word: str, said: str, call: Call, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        call(word)
    assert ended.value.code == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.rstrip("\n").endswith(said)


@pytest.mark.parametrize("name", script.COMMANDS)
def test_a_command_gets_the_rest_of_the_line(
    name: str, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module(script.COMMANDS[name].module)
    got: list[str] = []
    monkeypatch.setattr(module, "main", lambda: got.extend(sys.argv))
    call(name, "task=mmlu", "--force")
    assert got == [f"quant-harness {name}", "task=mmlu", "--force"]


@pytest.mark.parametrize("name", ["report", "tensor"])  # those of the others are pages of conf
def test_help_of_a_command_is_called_by_its_name(
    name: str, call: Call, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        call(name, "--help")
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: quant-harness {name} ")


def test_a_record_names_the_script_without_its_folder(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module(script.COMMANDS["run"].module)
    said: list[str] = []
    monkeypatch.setattr(module, "main", lambda: said.append(provenance.command_line()))
    call("run", "model.name=a b")
    assert said == ["quant-harness run 'model.name=a b'"]
