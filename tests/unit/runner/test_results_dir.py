"""`results_dir`: a place that cannot hold records is refused before a model is loaded; a disk that fills up later costs no whole file."""

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest
from runs import PERPLEXITY, MakeSpec, Wrapped, records

from harness.errors import OutputError, ResultError
from harness.models import cache
from harness.models.loaded import LoadedModel
from harness.results.record import Status
from harness.results.store import ResultStore
from harness.runner.run import RunSpec, run


@pytest.mark.parametrize(
    ("folder", "said"),
    [
        ("", "results_dir must name a place to write, got ''"),
        ("s3://bucket/x", "results_dir must be a path on this machine, got the address s3://"),
        ("/proc/x", "got /proc/x, which belongs to the operating system"),
        ("/dev/null", "got /dev/null, which belongs to the operating system"),
        ("file", "results_dir must be a folder that can be written, got file, which is a file"),
        ("file/below", "got file/below: Not a directory"),
        (
            "pipe",
            "results_dir must be a folder that can be written, got pipe, which is a named pipe",
        ),
        ("nowhere", "which is a link to nothing"),
        ("n" * 300, "File name too long"),
        ("new/" + "n" * 300, "File name too long"),
    ],
)
def test_folder_that_cannot_hold_records_is_refused_before_a_model_is_loaded(
    folder: str, said: str, make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    os.mkfifo("pipe")
    Path("nowhere").symlink_to("missing")
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(cache, "load", lambda *_: pytest.fail("the model was loaded"))
    resolved = {**make_spec(*PERPLEXITY).resolved, "results_dir": folder}
    with pytest.raises(OutputError) as refused:
        run(RunSpec.build(resolved))
    assert said in str(refused.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_results_lie_in_the_home_that_a_tilde_names(
    make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    spec = RunSpec.build({**make_spec(*PERPLEXITY).resolved, "results_dir": "~/results"})
    assert spec.store.root == tmp_path / "me" / "results"


def test_full_disk_is_noticed_before_the_model_is_loaded(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    spec = make_spec(*PERPLEXITY)
    monkeypatch.setattr(cache, "load", lambda *_: pytest.fail("the model was loaded"))
    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OutputError, match=r"results_dir must be .*No space left.*free some space"):
        run(spec)
    assert list(spec.store.root.rglob("*.json")) == []


def test_disk_that_fills_up_before_the_samples_is_recorded(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args: object) -> tuple[str, str]:
        raise ResultError("disk full")

    spec = make_spec(*PERPLEXITY)
    monkeypatch.setattr(ResultStore, "write_samples", refuse)
    with pytest.raises(ResultError, match="disk full"):
        run(spec)
    [stored] = records(spec)
    assert stored.record.status is Status.ERROR


@pytest.mark.parametrize("number", [1, 2], ids=["samples", "record"])
def test_result_that_meets_a_full_disk_is_told_and_leaves_whole_files(
    number: int,
    make_spec: MakeSpec,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    expected = run(make_spec(*PERPLEXITY, results="elsewhere")).headline
    spec, replace_file, written = make_spec(*PERPLEXITY), Path.replace, 0

    def fill(_loaded: LoadedModel) -> None:
        monkeypatch.setattr(Path, "replace", full)

    def full(self: Path, target: Path) -> Path:
        nonlocal written
        written += 1
        if written >= number:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return replace_file(self, target)

    with pytest.raises(OutputError, match=r"results_dir must be .*No space left.*free some space"):
        run(replace(spec, task=Wrapped(task=spec.task, before=fill)))
    assert expected is not None
    assert f"measured, but not on file: perplexity {expected.value:.4f}, n = " in caplog.text
    [left] = records(spec)
    assert left.record.status is Status.RUNNING, "the old record is whole"
    assert list(spec.store.root.rglob(".writing-*")) == []
    monkeypatch.setattr(Path, "replace", replace_file)
    assert not run(spec).skipped
    assert [item.record.status for item in records(spec)] == [Status.ERROR, Status.OK]


def test_ctrl_c_on_a_full_disk_is_still_ctrl_c(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    spec = make_spec(*PERPLEXITY)

    def interrupt(_loaded: LoadedModel) -> None:
        def full(_descriptor: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "fsync", full)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(replace(spec, task=Wrapped(task=spec.task, before=interrupt)))
    assert "No space left on device" in caplog.text
