"""Where commands write and where they do not, in processes of their own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

Cli = Callable[..., subprocess.CompletedProcess[str]]
TINY = ("model=tiny", "data=embedded", "task.limit_windows=4", "task.window=64")


def test_a_run_leaves_records_and_nothing_of_hydra(cli: Cli, tmp_path: Path) -> None:
    done = cli(*TINY, "results_dir=out")
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [".locks", "perplexity"]


@pytest.mark.parametrize(
    ("folder", "said"),
    [
        ("", "results_dir must name a place to write, got ''; name one"),
        (
            "s3://b/x",
            "results_dir must be a path on this machine, got the address s3://b/x; write here ",
        ),
    ],
    ids=["empty", "address"],
)
def test_a_sweep_without_a_folder_is_refused_before_hydra_makes_one(
    folder: str, said: str, cli: Cli, tmp_path: Path
) -> None:
    before = [path for path in Path("/").iterdir() if path.name == ".hydra"]
    done = cli("-m", *TINY, f"results_dir={folder}", "task.window=32,64")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(said)
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
    assert [path for path in Path("/").iterdir() if path.name == ".hydra"] == before


def test_ctrl_c_in_the_middle_of_an_export_leaves_nothing(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        child = subprocess.Popen(
            [sys.executable, "-m", "harness.export", "model=tiny", "+quant=int8_row", "out=a/b"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
        )
    finally:
        signal.signal(signal.SIGINT, before)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("a/.writing-*/new/config.json")):
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    out, errors = child.communicate(timeout=60)
    assert (child.returncode, out) == (130, "")
    assert "interrupted" in errors
    assert "Traceback" not in errors
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("size", ["64k", "1200k"], ids=["before", "in_the_middle"])
def test_a_disk_that_is_full(size: str, cli: Cli, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root can mount a disk; the quick tests have one without")
    try:
        if size != "64k":
            (disk / "others").write_bytes(b"\1" * 1_150_000)
        before = sorted(disk.rglob("*"))
        done = cli(*TINY, "results_dir=disk/res")
        assert done.returncode == 1
        assert "results_dir must have room for 1.0 MB, got disk/res with" in done.stderr
        assert "Traceback" not in done.stderr
        done = cli("model=tiny", "+quant=int8_row", "out=disk/out", module="harness.export")
        assert done.returncode == 1
        lines = [line for line in done.stderr.splitlines() if "OutputError" in line]
        assert len(lines) == 1
        assert "out must " in lines[0]
        assert "free some space, or name another (out=FOLDER)" in lines[0]
        assert "Traceback" not in done.stderr
        assert [path for path in disk.iterdir() if path.name != "res"] == before
    finally:
        subprocess.run(["umount", str(disk)], check=True)
