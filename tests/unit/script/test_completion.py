"""What could be typed next, in Python and in a real bash."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from repository import ROOT

from harness.script.completion import INSTALL, SCRIPTS, answer, completions
from harness.script.main import COMMANDS


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("quant-harness r", ["report", "run"]),
        ("quant-harness --v", ["--version"]),
        ("quant-harness --shell-completion ", ["bash", "fish", "zsh"]),
        ("quant-harness run task=perp", ["task=perplexity", "task=perplexity_documents", "task=perplexity_llama_cpp"]),
        ("quant-harness run task=mmlu task.li", ["task.limit="]),
        ("quant-harness run quant=int8_group quant.gr", ["quant.group_size="]),
        ("quant-harness run +quant=int8_ro", ["+quant=int8_row", "+quant=int8_row_real"]),
        ("quant-harness run experiment=granularity_", ["experiment=granularity_real"]),
        ("quant-harness run --mul", ["--multirun"]),
        ("quant-harness run task=mmluu task.li", []),
        ("quant-harness run 'model.path=a b' \"", []),
        ("quant-harness export layout=", ["layout=compressed_tensors", "layout=gptq"]),
        ("quant-harness report --o", ["--out"]),
        ("quant-harness audit --n", ["--n"]),
        ("quant-harness anchors --t", ["--task"]),
        ("quant-harness run anch", []),
        ("quant-harness tensor e", ["error"]),
        ("quant-harness tensor error --te", ["--tensor"]),
        ("quant-harness tensor error --format mxint", ["mxint8"]),
        ("quant-harness nonsense ", []),
    ],
)  # fmt: skip
def test_completions(line: str, expected: list[str]) -> None:
    assert completions(line, COMMANDS) == expected


def test_an_empty_line_has_every_command() -> None:
    assert set(completions("quant-harness ", COMMANDS)) > set(COMMANDS)
    assert set(completions("quant-harness", COMMANDS)) > set(COMMANDS)


def test_files_and_folders_are_completed_where_a_path_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("results").mkdir()
    Path("results/a.safetensors").touch()
    assert completions("quant-harness report re", COMMANDS) == ["results/"]
    assert completions("quant-harness tensor error results/", COMMANDS) == ["results/a.safetensors"]
    assert completions("quant-harness report ./re", COMMANDS) == ["./results/"]
    assert completions("quant-harness report nowhere/", COMMANDS) == []


def test_each_shell_has_a_script_that_asks_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    assert SCRIPTS.keys() == INSTALL.keys()
    for shell in SCRIPTS:
        assert "quant-harness --shell-completion query" in answer(shell, COMMANDS)
    assert answer("tcsh", COMMANDS) == ""
    monkeypatch.setenv("COMP_LINE", "quant-harness re")
    assert answer("query", COMMANDS) == "report\n"


BASH = """
eval "$(quant-harness --shell-completion bash)"
complete -p quant-harness
for COMP_LINE in "$@"; do
    COMP_POINT=${#COMP_LINE}
    _quant_harness
    printf '<%s>' "${COMPREPLY[@]}"
    echo
done
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_from_the_last_equals_sign_on(tmp_path: Path) -> None:
    command = tmp_path / "quant-harness"
    code = "from harness.script.main import main; main()"
    command.write_text(f"#!/bin/sh\nexec {sys.executable} -c '{code}' \"$@\"\n")
    command.chmod(0o755)
    lines = ("quant-harness ru", "quant-harness export layout=g", "quant-harness report --o")
    done = subprocess.run(
        ["bash", "--norc", "-c", BASH, "bash", *lines],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "PYTHONPATH": str(ROOT)},
    )
    first, *found = done.stdout.splitlines()
    assert "-F _quant_harness" in first
    assert found == ["<run >", "<gptq >", "<--out >"]
    assert done.stderr == ""
