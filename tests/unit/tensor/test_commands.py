import math
import re
import resource
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from safetensors.torch import load_file, save_file
from torch import Tensor

from harness.output import place
from harness.quant.primitives import fake_quantize, quantize
from harness.tensor import commands, format_files, plot
from harness.tensor.files import header

from .conftest import Run, normal


def test_table_has_the_errors_that_numpy_finds(
    run: Run, file: Path, tensors: dict[str, Tensor]
) -> None:
    names = ["mxfp4", "nvfp4", "hif8", "int4_asym_group"]
    done = run("error", file, "--format", ",".join(names), "--tensor", "layers.*")
    assert done.code == 0
    rows = done.rows()
    assert [(row["tensor"], row["format"]) for row in rows[:8]] == [
        (tensor, name) for tensor in ("layers.0.weight", "layers.1.weight") for name in names
    ]
    assert [(row["tensor"], row["format"]) for row in rows[8:]] == [("all 2", n) for n in names]
    for row in rows[:8]:
        x, fmt = tensors[row["tensor"]], format_files.load(row["format"])
        wide = x.double().numpy()
        difference = wide - fake_quantize(x.float(), fmt).double().numpy()
        relative = np.linalg.norm(difference) / np.linalg.norm(wide)
        # Tables have four digits, decibels two places.
        assert float(row["MSE"]) == pytest.approx(np.mean(difference**2), rel=1e-3)
        assert float(row["relative error [%]"]) == pytest.approx(100 * relative, rel=1e-3)
        assert float(row["SQNR [dB]"]) == pytest.approx(-20 * math.log10(relative), abs=0.0051)
        assert float(row["max. abs. error"]) == pytest.approx(np.abs(difference).max(), rel=1e-3)
        bits = quantize(x.float(), fmt).bits_per_element
        assert float(row["bits/element"]) == pytest.approx(bits, abs=5.1e-5)
        assert row["shape"] == "x".join(map(str, x.shape))
        assert "note" not in row


def test_last_rows_are_the_error_of_all_tensors_as_one(run: Run, tmp_path: Path) -> None:
    x, y = normal(4, 64), 10 * normal(2, 64, seed=1)
    save_file({"a": x, "b": y}, tmp_path / "a")
    save_file({"both": torch.cat([x, y])}, tmp_path / "b")
    separate = run("error", tmp_path / "a", "--format", "mxfp4").rows()[-1]
    together = run("error", tmp_path / "b", "--format", "mxfp4").rows()[0]
    assert separate.pop("tensor") == "all 2"
    assert together.pop("tensor") == "both"
    assert separate.pop("shape") == ""
    together.pop("shape")
    assert separate == together


def test_all_formats_take_all_tensors_and_what_is_no_float_is_named(run: Run, file: Path) -> None:
    done = run("error", file, "--format", "all")
    assert done.code == 0
    assert done.err == "left out, not floating point: steps (I64)\n"
    rows = done.rows()
    assert len(rows) == 7 * len(format_files.names())
    assert {row["format"] for row in rows} == set(format_files.names())
    assert {row["SQNR [dB]"] for row in rows if row["tensor"] == "zeros"} == {"exact"}
    exact = {row["tensor"] for row in rows if row["format"] == "fp32" and row["MSE"] == "0"}
    assert exact == {"layers.0.weight", "layers.1.weight", "stack", "scalar", "zeros"}
    assert not any("nan" in cell or "inf" in cell for row in rows for cell in row.values())


def test_output_file_has_the_dequantized_tensors(
    run: Run, file: Path, tmp_path: Path, tensors: dict[str, Tensor]
) -> None:
    out = tmp_path / "out.safetensors"
    done = run("error", file, "--format", "nvfp4,fp4_b64_dq,e4m3k8b32c", "--out", out)
    assert done.code == 0
    assert str(out) in done.out
    written = load_file(out)
    formats = format_files.find("nvfp4,fp4_b64_dq,e4m3k8b32c")
    floats = {name: x for name, x in tensors.items() if x.is_floating_point()}
    assert written.keys() == {f"{name}/{fmt}" for name in floats for fmt in formats}
    for name, x in floats.items():
        for key, fmt in formats.items():
            value = written[f"{name}/{key}"]
            assert value.dtype is torch.float32
            assert torch.equal(value, fake_quantize(x.float(), fmt)), (name, key)


def test_an_existing_file_is_overwritten_with_force_alone(
    run: Run, file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.safetensors"
    out.write_text("mine")
    words = ("error", file, "--format", "mxfp4", "--tensor", "norm", "--out", out)
    done = run(*words)
    assert (done.code, done.out) == (1, "")
    assert done.err == (
        f"--out must lead to a new file, got {out}, which exists; "
        "name another (--out FILE), or add --force to overwrite it\n"
    )
    assert out.read_text() == "mine"
    assert run(*words, "--force").code == 0
    assert list(load_file(out)) == ["norm/mxfp4"]
    assert sorted(tmp_path.iterdir()) == [out, file]


def test_drawings_are_drawn_again_and_other_pictures_kept(
    run: Run, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plot, "DPI", 20)  # what they show is no matter here
    folder = tmp_path / "plots"
    words = ("plot", file, "--format", "mxfp4,int8_row", "--tensor", "norm", "--out", folder)
    assert run(*words).code == 0
    (folder / "notes.txt").write_text("mine")
    assert run(*words).code == 0, "its own"
    figure = Figure()
    figure.savefig(folder / "error.png")
    mine = (folder / "error.png").read_bytes()
    done = run(*words)
    assert (done.code, done.out) == (1, ""), "nothing is written if not all may be"
    assert "error.png, which exists; name another (--out FOLDER), or add --force" in done.err
    assert (folder / "error.png").read_bytes() == mine
    without = [word for word in words if word is not file]
    assert run(*without).code == 0, "grids.png alone"
    assert run(*words, "--force").code == 0
    assert (folder / "error.png").read_bytes() != mine
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["error.png", "grids.png", "notes.txt"]


def test_the_size_of_the_file_is_known_before_anything_is_measured(
    run: Run, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    words = ("error", file, "--format", "mxfp4,fp16", "--tensor", "norm", "--out", out)
    assert run(*words).code == 0
    size = out.stat().st_size
    out.unlink()
    usage = SimpleNamespace(total=10**9, free=size)
    monkeypatch.setattr(place.shutil, "disk_usage", lambda _: usage)
    assert run(*words).code == 0
    out.unlink()
    usage.free = size - 1
    monkeypatch.setattr(commands, "measure", None)
    done = run(*words)
    assert (done.code, done.out) == (1, "")
    assert (
        f"--out must have room for {size} bytes, got {out} with {size - 1} bytes free" in done.err
    )
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("link", ["same", "symbolic", "hard"])
def test_the_input_is_never_overwritten(run: Run, file: Path, tmp_path: Path, link: str) -> None:
    before = file.read_bytes()
    out = file if link == "same" else tmp_path / "link"
    if link == "symbolic":
        out.symlink_to(file)
    elif link == "hard":
        out.hardlink_to(file)
    done = run("error", file, "--format", "mxfp4", "--out", out, "--force")
    assert (done.code, done.out) == (1, "")
    assert "--out must not be the file that is read" in done.err
    assert file.read_bytes() == before


def test_numbers_that_are_not_finite_have_a_note_in_the_place_of_a_score(
    run: Run, tmp_path: Path
) -> None:
    path = tmp_path / "a.safetensors"
    nan, huge, empty = torch.tensor([1.0, torch.nan]), torch.tensor([1.0, 1e6]), torch.empty(0, 3)
    save_file({"nan": nan, "huge": huge, "empty": empty, "good": torch.ones(2)}, path)
    done = run("error", path, "--format", "fp16,int8_row")
    assert done.code == 0
    rows = {(row["tensor"], row["format"]): row for row in done.rows()}
    for fmt in ("fp16", "int8_row"):
        assert "1 of 2 are NaN or Inf in the file" in rows["nan", fmt]["note"]
        assert rows["empty", fmt]["note"] == "no elements"
        assert rows["empty", fmt]["bits/element"] == "-"
        assert "1 of 6 are NaN" in rows["all 4", fmt]["note"]
    note = rows["huge", "fp16"]["note"]
    assert note == "no score: 1 of 2 overflow to NaN or Inf, the smallest of them 1e+06"
    assert rows["huge", "int8_row"]["note"] == ""
    for row in rows.values():
        scores = [row[name] for name in ("MSE", "relative error [%]", "SQNR [dB]")]
        assert (scores == ["-"] * 3) == bool(row["note"])
    assert rows["nan", "fp16"]["bits/element"] == "16.0000"


FP32 = ["some.safetensors", "--format", "fp32"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["missing.safetensors", "--format", "mxfp4"], "which is not a file"),
        (["text.safetensors", "--format", "mxfp4"], "must be a safetensors file"),
        (["integers.safetensors", "--format", "mxfp4"], "--tensor must match a floating-point"),
        (["some.safetensors", "--format", "mxfp4", "--tensor", "x"], "--tensor must match"),
        (["some.safetensors", "--format", "mxfp5"], "did you mean mxfp"),
        ([*FP32, "--out", "."], "must lead to a file, got ., which is a folder"),
        ([*FP32, "--out", "text.safetensors/x"], "got text.safetensors/x: Not a directory"),
        ([*FP32, "--out", "n" * 300], "File name too long"),
        ([*FP32, "--out", f"new/{'n' * 300}"], "File name too long"),
        ([*FP32, "--out", "/proc/x"], "which belongs to the operating system"),
        ([*FP32, "--out", "/dev/full"], "which belongs to the operating system"),
        ([*FP32, "--out", "/dev/stdout", "--force"], "which belongs to the operating system"),
        ([*FP32, "--out", "-"], "--out must be a path, got -"),
        ([*FP32, "--out", ""], "--out must name a place to write, got ''"),
        ([*FP32, "--out", "s3://bucket/x"], "a path on this machine, got the address s3://"),
    ],
)
@pytest.mark.usefixtures("file")
def test_mistakes_are_explained_and_exit_with_1(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.safetensors").write_text("no tensors here")
    save_file({"a": torch.arange(3)}, "integers.safetensors")
    before = sorted(tmp_path.iterdir())
    done = run("error", *words)
    assert (done.code, done.out) == (1, "")
    assert said in done.err
    assert sorted(tmp_path.iterdir()) == before


def test_a_file_larger_than_memory_is_told_in_one_line(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path, rows = tmp_path / "huge.safetensors", 2**34
    beginning = header({"a": (rows, 64)})
    with path.open("wb") as stream:
        stream.write(beginning)
        stream.truncate(len(beginning) + 4 * 64 * rows)  # takes no space
    monkeypatch.chdir(tmp_path)
    limit, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (2**41, hard))
    try:
        done = run("error", path.name, "--format", "int8_row")
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    assert (done.code, done.out) == (1, "")
    assert re.fullmatch("the run must fit into memory, got: .*; take a smaller .*\n", done.err)


@pytest.mark.parametrize("words", [[], ["error"], ["error", "x"], ["plot", "--format", "mxfp4"]])
def test_a_command_that_lacks_something_exits_with_the_usage(run: Run, words: list[str]) -> None:
    done = run(*words)
    assert done.code == 2
    assert "usage: python -m harness.tensor" in done.err
