"""Whole files and folders or none, whatever happens while they are written."""

import errno
import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from harness.errors import OutputError
from harness.output import atomic, scratch
from harness.output.atomic import new_file, new_folder, write_atomic

Limited = Callable[[int], AbstractContextManager[None]]


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def refuse(number: int) -> Callable[..., None]:
    def call(*_args: object, **_kwargs: object) -> None:
        raise OSError(number, os.strerror(number))

    return call


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# Files


def test_bytes_on_disk_are_those_given(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file"
    write_atomic(path, b"first", "--out")
    write_atomic(path, b"second\n", "--out", force=True)
    assert path.read_bytes() == b"second\n"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(("mask", "expected"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_new_file_has_the_permissions_that_the_user_wants(
    mask: int, expected: int, tmp_path: Path
) -> None:
    with umask(mask):
        write_atomic(tmp_path / "file", b"", "--out")
        with new_folder(tmp_path / "folder", "out") as new:
            save_file({"a": torch.ones(2)}, new / "a.safetensors")
            (new / "below").mkdir()
            (new / "below" / "b").touch(mode=0o600)
    assert mode(tmp_path / "file") == expected
    assert mode(tmp_path / "folder" / "a.safetensors") == expected
    assert mode(tmp_path / "folder" / "below" / "b") == expected
    assert mode(tmp_path / "folder") == 0o777 & ~mask


def test_a_file_that_is_replaced_leaves_its_permissions(tmp_path: Path) -> None:
    path = tmp_path / "private"
    path.touch(mode=0o600)
    write_atomic(path, b"new", "--out", force=True)
    assert mode(path) == 0o600


def test_other_names_of_a_replaced_file_keep_its_content(tmp_path: Path) -> None:
    path, other = tmp_path / "file", tmp_path / "other"
    path.write_text("old")
    other.hardlink_to(path)
    write_atomic(path, b"new", "--out", force=True)
    assert (path.read_text(), other.read_text()) == ("new", "old")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize(
    ("owner", "name"), [(os, "fsync"), (Path, "replace"), (Path, "open"), (os, "open")]
)
def test_an_error_at_any_step_leaves_the_old_file_and_no_other(
    owner: Any, name: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, refuse(number))
        with pytest.raises(OutputError) as refused:
            write_atomic(path, b"new", "results_dir", "folder", force=True)
    space = "" if number == errno.EIO else "free some space, or "
    assert str(refused.value) == (
        f"results_dir must be a folder that can be written, got {path}: {os.strerror(number)}; "
        f"{space}name another (results_dir=FOLDER)"
    )
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_disk_that_fills_leaves_nothing_not_even_folders(
    tmp_path: Path, no_file_larger: Limited
) -> None:
    path = tmp_path / "new" / "folder" / "file"
    with (
        no_file_larger(10_000),
        pytest.raises(
            OutputError, match=r"--out .*File too large; free some space, or name another"
        ),
    ):
        write_atomic(path, b"x" * 100_000, "--out")
    assert list(tmp_path.iterdir()) == []


def test_a_real_disk_that_fills_leaves_what_was_there(full_disk: Path) -> None:
    path = full_disk / "others"
    before = path.read_bytes()
    with pytest.raises(OutputError, match=r"No space left on device; free some space"):
        write_atomic(path, b"x" * 20_000, "--out", force=True)
    assert path.read_bytes() == before
    assert list(full_disk.iterdir()) == [path]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_that_cannot_sync_is_written_all_the_same(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse(number))
        write_atomic(tmp_path / "file", b"new", "--out")
        with new_folder(tmp_path / "folder", "out") as new:
            (new / "a").write_text("a")
    assert (tmp_path / "file").read_bytes() == b"new"
    assert (tmp_path / "folder" / "a").read_text() == "a"


def test_a_folder_that_cannot_be_listed_can_be_written(unprivileged: Path) -> None:
    drop = unprivileged / "drop"
    drop.mkdir()
    drop.chmod(0o300)
    write_atomic(drop / "file", b"new", "--out")
    drop.chmod(0o700)
    assert [path.name for path in drop.iterdir()] == ["file"]


def test_content_is_on_disk_before_it_takes_the_place_of_the_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    events: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def sync(descriptor: int) -> None:
        events.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def move(self: Path, target: Path) -> Path:
        assert (self.read_bytes(), target.read_bytes()) == (b"new", b"old")
        assert self.parent == target.parent, "a move is one step only within a folder"
        events.append("move")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(Path, "replace", move)
    write_atomic(path, b"new", "--out", force=True)
    assert events == ["file", "move", "folder"]


@pytest.mark.parametrize("reason", [KeyboardInterrupt(), RuntimeError("a bug"), SystemExit(1)])
def test_a_block_that_is_left_early_leaves_nothing(reason: BaseException, tmp_path: Path) -> None:
    def interrupted(stack: ExitStack) -> None:
        stack.enter_context(new_file(tmp_path / "a" / "b" / "file", "--out")).write(b"half")
        folder = stack.enter_context(new_folder(tmp_path / "c" / "d", "out"))
        (folder / "part").write_text("half")
        assert len(list(tmp_path.iterdir())) == 2
        raise reason

    with pytest.raises(type(reason)), ExitStack() as stack:
        interrupted(stack)
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_is_not_hidden_by_a_disk_that_is_full_too(
    tmp_path: Path, no_file_larger: Limited
) -> None:
    def interrupted() -> None:
        with new_file(tmp_path / "file", "--out") as stream:
            stream.write(b"x" * 5000)  # in a buffer
            raise KeyboardInterrupt

    with no_file_larger(1000), pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_writers_of_one_path_leave_the_whole_file_of_one_of_them(tmp_path: Path) -> None:
    path, size, rounds = tmp_path / "file", 300_000, 15
    path.write_bytes(b"\0" * size)
    torn: list[bytes] = []

    def write(letter: bytes) -> None:
        for _ in range(rounds):
            write_atomic(path, letter * size, "--out", force=True)

    threads = [threading.Thread(target=write, args=(letter,)) for letter in (b"a", b"b", b"c")]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        content = path.read_bytes()
        if content != content[:1] * size:
            torn.append(content)
    assert torn == []
    assert path.read_bytes()[:1] in b"abc"
    assert list(tmp_path.iterdir()) == [path]


# Folders


def is_ours(folder: Path) -> bool:
    return {file.name for file in folder.iterdir()} == {"ours"}


def test_a_folder_appears_when_it_is_whole(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    with new_folder(out, "out") as new:
        (new / "a").write_text("a")
        new.with_name("beside").write_text("gone at the end")
        assert not out.exists()
        assert new.parent.parent == out.parent, "a move is one step only within a file system"
    assert [file.name for file in out.iterdir()] == ["a"]
    assert list(out.parent.iterdir()) == [out]


def test_a_link_to_an_empty_folder_stands_for_it(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there")
    with new_folder(tmp_path / "link", "out") as new:
        (new / "a").write_text("a")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "there" / "a").read_text() == "a"


def test_the_old_folder_comes_back_if_the_new_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with new_folder(out, "out") as new:
        (new / "ours").write_text("old")
    rename = Path.rename

    def fail_for_new(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return rename(self, target)

    stack = ExitStack()
    new = stack.enter_context(new_folder(out, "out", force=True, is_own=is_ours))
    (new / "ours").write_text("new")
    monkeypatch.setattr(Path, "rename", fail_for_new)
    with pytest.raises(OutputError, match="Input/output error"):
        stack.close()
    assert (out / "ours").read_text() == "old"
    assert list(tmp_path.iterdir()) == [out]


def test_a_folder_of_others_is_not_replaced_by_force(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").touch()
    with (
        pytest.raises(OutputError, match="files that the harness did not write"),
        new_folder(out, "out", force=True, is_own=is_ours),
    ):
        pass
    assert [file.name for file in out.iterdir()] == ["mine"]


def save(folder: Path) -> None:
    save_file({"a": torch.ones(10_000)}, folder / "a.safetensors")


def test_a_library_that_meets_a_full_disk_is_told_like_any_other(
    tmp_path: Path, no_file_larger: Limited
) -> None:
    with (
        no_file_larger(10_000),
        pytest.raises(OutputError, match=r"^out must be .*out: File too large; free some space"),
        new_folder(tmp_path / "out", "out") as new,
    ):
        save(new)
    assert list(tmp_path.iterdir()) == []
    with new_folder(tmp_path / "out", "out") as new:
        save(new)
    assert load_file(tmp_path / "out" / "a.safetensors")["a"].sum() == 10_000


def test_a_library_that_meets_a_real_full_disk_leaves_it_as_it_was(full_disk: Path) -> None:
    with (
        pytest.raises(OutputError, match=r"^out must be .*new/out: No space left on device; free"),
        new_folder(full_disk / "new" / "out", "out") as new,
    ):
        save(new)
    assert [path.name for path in full_disk.iterdir()] == ["others"]


def test_every_file_of_a_folder_is_on_disk_before_it_appears(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    folders: list[tuple[bool, bool]] = []
    sync, sync_folder = scratch.sync, scratch.sync_folder

    def note(stream: Any) -> None:
        synced.append(Path(stream.name).name)
        assert not (tmp_path / "out").exists()
        sync(stream)

    def note_folder(folder: Path) -> None:
        folders.append((folder == tmp_path, (tmp_path / "out").exists()))
        sync_folder(folder)

    monkeypatch.setattr(atomic.scratch, "sync", note)
    monkeypatch.setattr(atomic.scratch, "sync_folder", note_folder)
    with new_folder(tmp_path / "out", "out") as new:
        for name in ("a", "b"):
            (new / name).write_text(name)
    assert sorted(synced) == ["a", "b"]
    assert folders == [(False, False), (True, True)], "its names before, its own name behind"
