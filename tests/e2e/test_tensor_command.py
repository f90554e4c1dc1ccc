"""`python -m harness.tensor` in a process of its own: streams, exit codes, files."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import torch
from repository import ROOT
from safetensors.torch import load_file, save_file

Cli = Callable[..., subprocess.CompletedProcess[str]]
CONF = ROOT / "conf" / "format"


def test_formats_errors_and_drawings(cli: Cli, tmp_path: Path) -> None:
    listed = cli("formats", module="harness.tensor")
    assert listed.returncode == 0, listed.stderr
    assert listed.stderr == ""
    rows = [line.split("|")[1].strip() for line in listed.stdout.splitlines() if "|" in line][2:]
    assert rows == sorted(file.stem for file in CONF.glob("*.yaml")), "one line a format"

    # Powers of two are exact in MXFP4; 0.3 is 0.5 * 2^-1 there, and 5 is 4: a tie that goes to the
    # even code.
    x = torch.tensor([[0.3, 0.5, 1.0, 5.0]])
    save_file({"weight": x, "ids": torch.arange(3)}, tmp_path / "in.safetensors")
    done = cli(
        *("error", "in.safetensors", "--format", "mxfp4", "--out", "out.safetensors"),
        module="harness.tensor",
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "left out, not floating point: ids (I64)\n"
    [row] = [line for line in done.stdout.splitlines() if line.startswith("| weight")]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    # Errors 0.2 and 1: MSE 1.04 / 4; |x| = sqrt(26.34); 4 codes of 4 bits and one scale of 8.
    assert cells == ["weight", "1x4", "mxfp4", "6.0000", "0.26", "19.87", "14.04", "1"]
    assert load_file(tmp_path / "out.safetensors")["weight/mxfp4"].tolist() == [
        [0.5, 0.5, 1.0, 4.0]
    ]

    done = cli(
        *("plot", "in.safetensors", "--format", "mxfp4,int8_row", "--out", "plots"),
        module="harness.tensor",
    )
    assert done.returncode == 0, done.stderr
    for name in ("error.png", "grids.png"):
        content = (tmp_path / "plots" / name).read_bytes()
        assert content.startswith(b"\x89PNG")
        assert len(content) > 10_000


def test_a_mistake_is_explained_without_a_traceback(cli: Cli) -> None:
    done = cli("plot", "--format", "mxfp44", "--out", "plots", module="harness.tensor")
    assert (done.returncode, done.stdout) == (1, "")
    assert "Traceback" not in done.stderr
    assert "did you mean mxfp4" in done.stderr
