"""Folders with any name, typed as they are called: one run, a sweep over two, an export."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.models.sources.tiny import TinyModel
from harness.results.record import RunRecord, Status

Cli = Callable[..., subprocess.CompletedProcess[str]]
Records = Callable[[Path], list[RunRecord]]
SMALL = ("model=local", "model.dtype=float32", "data=embedded", "task.window=64")


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[str], Path]:
    """Save the tiny model in a folder of some name."""

    def save(name: str) -> Path:
        import torch

        loaded = TinyModel().load(torch.device("cpu"))
        loaded.module.save_pretrained(tmp_path / name)
        loaded.tokenizer.save_pretrained(tmp_path / name)
        return tmp_path / name

    return save


def test_one_run(cli: Cli, tmp_path: Path, records: Records, saved: Callable[[str], Path]) -> None:
    folder = saved("it's [v2] ünï日本,{x} ep=1")
    results = tmp_path / "re,sults (1) 100%"
    done = cli(*SMALL, f"model.path={folder}", f"results_dir={results}", "task.limit_windows=2")
    assert done.returncode == 0, done.stderr
    [record] = records(results)
    assert record.status is Status.OK
    assert record.config["model"]["path"] == str(folder)


def test_sweep_over_two_folders(
    cli: Cli, tmp_path: Path, records: Records, saved: Callable[[str], Path]
) -> None:
    folders = [saved("a b"), saved("ünï日本!")]
    paths = ",".join(map(str, folders))
    done = cli("-m", *SMALL, f"model.path={paths}", "+quant=none", "task.limit_windows=2")
    assert done.returncode == 0, done.stderr
    found = records(tmp_path / "results")
    assert sorted(r.config["model"]["path"] for r in found) == sorted(map(str, folders))
    # A comma in the name of a folder that exists is part of it.
    both = saved("a b,c#d")
    done = cli("-m", *SMALL, f"model.path={both}", "+quant=none,int8_row", "task.limit_windows=2")
    assert done.returncode == 0, done.stderr
    found = [r for r in records(tmp_path / "results") if r.config["model"]["path"] == str(both)]
    assert {r.quant.name for r in found if r.quant} == {"none", "int8_row"}


def test_export(cli: Cli, tmp_path: Path, saved: Callable[[str], Path]) -> None:
    folder, out = saved('d"q ~t'), tmp_path / "it's {new}, $5"
    given = ("model=local", "model.dtype=float32", "data=embedded", f"model.path={folder}")
    done = cli(*given, "+quant=int8_row", f"out={out}", module="harness.export")
    assert done.returncode == 0, done.stderr
    assert (out / "config.json").is_file()
