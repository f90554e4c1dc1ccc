"""`python -m harness.export`: what a command says, and what it is answered."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import ConfigCompositionException
from safetensors.torch import load_file

from harness.config import CONF
from harness.errors import ConfigError, UnsupportedRecipe
from harness.export.checkpoint import Exported
from harness.export.command import main, register, resolve
from harness.export.job import run

Command = Callable[..., None]


def job(*overrides: str) -> Exported:
    """What a command does, without a process of its own."""
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return run(resolve(compose("export", ["model=tiny", *overrides])))


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """Run a command line in this process, in a folder of its own."""

    def run_line(*arguments: str) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["harness.export", "model=tiny", *arguments])
        monkeypatch.setattr(sys, "orig_argv", ["python", "-m", *sys.argv])
        main()

    return run_line


def test_one_command_writes_a_folder(
    command: Command, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    changed = ("quant.group_size=16", "quant.rules.linear.match='*.mlp.*'")
    command("quant=int4_g64", *changed, "layout=gptq", "out=made/out")
    said = capsys.readouterr().out
    assert said.startswith("made/out: 0.1 MB in 1 file; stored scales differ by at most")
    out = tmp_path / "made" / "out"
    assert "model.layers.0.mlp.up_proj.qweight" in load_file(out / "model.safetensors")
    manifest = json.loads((out / "quant_harness.json").read_text())
    assert "quant.group_size=16" in manifest["command"]
    assert manifest["config"]["quant"]["group_size"] == 16
    assert manifest["recipe"] == "int4_g16 (match=*.mlp.*)"
    assert "# tiny, int4_g16 (match=*.mlp.*)" in (out / "README.md").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made"], "nothing else is written"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["+quant=int8_row", "shard_gb=3"], "ConfigError: out must be given, got nothing; add out"),
        (["-m", "+quant=int8_row", "out=o"], "one command must write one folder"),
    ],
    ids=["no_out", "sweep"],
)
def test_a_wrong_command_is_answered_without_a_traceback(
    arguments: list[str],
    message: str,
    command: Command,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    with pytest.raises(SystemExit) as ended:
        command(*arguments)
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        ([], ConfigError, "quant must be a recipe that quantizes, got none"),
        (["+quant=hif4"], UnsupportedRecipe, "must be one that layout=compressed_tensors can hold"),
        (
            ["+quant=w8a8", "layout=gptq"],
            UnsupportedRecipe,
            "rule linear rounds activations to int8_row",
        ),
        (["+quant=int8_row", "shard_gb=0"], ConfigError, "shard_gb must be above 0, got 0"),
        (["+quant=int8_row", "+typo=1"], ConfigError, "must be one of .*; got typo"),
        (["+quant=int8_row", "layuot=gptq"], ConfigCompositionException, "layuot"),
    ],
    ids=["float", "format", "inputs", "shard", "unknown", "misspelled"],
)
def test_what_cannot_be_exported_is_refused_before_anything_is_written(
    overrides: list[str], error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        job(f"out={tmp_path}/out", *overrides)
    assert list(tmp_path.iterdir()) == []


def test_the_hash_is_of_what_is_written_not_of_where(tmp_path: Path) -> None:
    def written(out: str, *overrides: str) -> str:
        folder = job("+quant=int8_row", f"out={tmp_path / out}", *overrides).folder
        found: str = json.loads((folder / "quant_harness.json").read_text())["config_hash"]
        return found

    assert written("a") == written("b", "shard_gb=1")
    assert written("c") != written("d", "model.seed=1")
