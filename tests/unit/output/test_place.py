"""What may be written where, and what is said of the rest."""

import os
import re
import socket
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.errors import OutputError
from harness.output import place
from harness.output.atomic import new_file, new_folder, write_atomic

Make = Callable[[Path], None]


def bind(path: Path) -> None:
    before = Path.cwd()
    os.chdir(path.parent)  # addresses have 108 bytes at most
    try:
        with socket.socket(socket.AF_UNIX) as opened:
            opened.bind(path.name)
    finally:
        os.chdir(before)


PIPE = os.pipe()[0]
OBSTACLES: dict[str, tuple[Make, str]] = {
    "folder": (Path.mkdir, "a folder"),
    "pipe": (os.mkfifo, "a named pipe"),
    "socket": (bind, "a socket"),
    "link_to_nothing": (lambda path: path.symlink_to("nothing"), "a link to nothing"),
    "circle": (lambda path: path.symlink_to(path.name), "a link to nothing"),
    "link_to_device": (lambda path: path.symlink_to("/dev/null"), "a device"),
    "link_to_pipe": (lambda path: path.symlink_to(f"/proc/self/fd/{PIPE}"), "operating system"),
    "link_to_folder": (lambda path: path.symlink_to("/"), "a folder"),
}


def identity(path: Path) -> tuple[int, ...]:
    """What changes if something at a path is replaced or written.

    Not the access time: following a link sets it.
    """
    found = path.lstat()
    return found.st_ino, found.st_mode, found.st_size, found.st_mtime_ns, found.st_ctime_ns


@pytest.mark.parametrize("kind", OBSTACLES)
def test_what_is_no_regular_file_is_never_replaced(kind: str, tmp_path: Path) -> None:
    make, words = OBSTACLES[kind]
    path = tmp_path / "x"
    make(path)
    before = identity(path)
    message = rf"^--out must .*got {re.escape(str(path))}, .*{words}"
    for force in (False, True):
        with pytest.raises(OutputError, match=message):
            write_atomic(path, b"new", "--out", force=force, is_own=lambda _: True)
        assert identity(path) == before, force
        assert list(tmp_path.iterdir()) == [path], force


def test_a_device_elsewhere_is_no_file(tmp_path: Path) -> None:
    path = tmp_path / "full"
    try:
        os.mknod(path, 0o20666, os.makedev(1, 7))
    except PermissionError:
        pytest.skip("only root can make a device")
    with pytest.raises(OutputError, match=r"--out must lead to a file, got .*, which is a device"):
        write_atomic(path, b"new", "--out", force=True)
    assert path.is_char_device()


@pytest.mark.parametrize(
    "path", ["/dev/full", "/dev/stdout", "/dev/fd/1", "/dev/new", "/dev", "/proc/x", "/sys/x/y"]
)
@pytest.mark.parametrize(
    "check",
    [place.file_to_write, place.folder_to_fill, place.folder_to_make],
    ids=lambda f: f.__name__,
)
def test_nothing_is_written_among_the_things_of_the_system(
    path: str, check: Callable[[Path, str], object]
) -> None:
    with pytest.raises(
        OutputError, match=rf"^out must .*got {path}, which belongs to the operating"
    ):
        check(Path(path), "out")


def test_shared_memory_is_a_disk() -> None:
    folder = Path("/dev/shm")  # noqa: S108 - nothing is written
    if not folder.is_dir():
        pytest.skip("this system has no /dev/shm")
    place.folder_to_fill(folder, "results_dir")
    assert place.file_to_write(folder / "quant-harness-test", "--out").parent == folder
    place.folder_to_make(folder / "quant-harness-test", "out")


# An existing file


def test_an_existing_file_needs_force_or_must_be_its_own(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("mine")
    for option, flag in (("--out", "--force"), ("out", "force=true")):
        with pytest.raises(
            OutputError, match=rf"{option} must lead to a new file, .*add {flag} to"
        ):
            write_atomic(path, b"new", option)
    assert path.read_text() == "mine"
    write_atomic(path, b"forced", "--out", force=True)
    assert path.read_text() == "forced"
    write_atomic(path, b"own", "--out", is_own=lambda p: p.read_text() == "forced")
    assert path.read_text() == "own"


def test_a_link_to_a_file_stands_for_the_file(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    path, link = tmp_path / "there" / "file", tmp_path / "link"
    path.write_text("mine")
    link.symlink_to(path)
    with pytest.raises(OutputError, match="which exists"):
        write_atomic(link, b"new", "--out")
    assert path.read_text() == "mine"
    write_atomic(link, b"new", "--out", force=True)
    assert link.is_symlink()
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


def test_a_write_protected_file_stays_though_its_folder_could_be_written(
    unprivileged: Path,
) -> None:
    path = unprivileged / "report.md"
    path.write_text("mine")
    path.chmod(0o444)
    with pytest.raises(OutputError, match=r"got .*report\.md: Permission denied; name another"):
        write_atomic(path, b"new", "--out", force=True, is_own=lambda _: True)
    assert path.read_text() == "mine"


def test_what_comes_while_a_file_is_written_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "x"
    stack = ExitStack()
    stack.enter_context(new_file(path, "--out")).write(b"slow")
    path.write_text("quick")
    with pytest.raises(OutputError, match="which exists"):
        stack.close()
    assert path.read_text() == "quick"
    assert list(tmp_path.iterdir()) == [path]


def test_what_comes_while_a_folder_is_written_is_kept(tmp_path: Path) -> None:
    folder = tmp_path / "f"
    stack = ExitStack()
    (stack.enter_context(new_folder(folder, "out")) / "a").write_text("slow")
    folder.mkdir()
    (folder / "a").write_text("quick")
    with pytest.raises(OutputError, match="which has files"):
        stack.close()
    assert (folder / "a").read_text() == "quick"
    assert list(tmp_path.iterdir()) == [folder]


# Folders


@pytest.mark.parametrize("kind", ["pipe", "socket", "link_to_nothing", "circle", "link_to_device"])
def test_a_folder_must_be_one(kind: str, tmp_path: Path) -> None:
    OBSTACLES[kind][0](tmp_path / "x")
    for check in (place.folder_to_fill, place.folder_to_make):
        with pytest.raises(OutputError, match=OBSTACLES[kind][1]):
            check(tmp_path / "x", "out")
        if not kind.startswith(("link_to_nothing", "link_to_pipe")):
            with pytest.raises(
                OutputError, match=r"^out must be a folder that can be written, got"
            ):
                check(tmp_path / "x" / "below", "out")


def test_a_folder_that_others_stand_on_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        OutputError, match=r"got \., which is the current folder; name one in it, such"
    ):
        place.folder_to_make(Path(), "out", force=True)
    with pytest.raises(OutputError, match="got /, which is a mount point"):
        place.folder_to_make(Path("/"), "out", force=True)


# Room and rights


@pytest.mark.parametrize("below", ["", "a/b/c"])
def test_a_check_leaves_nothing(below: str, tmp_path: Path) -> None:
    place.check_room(tmp_path / below / "x", "out", "folder", within=tmp_path / below)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["n" * 300, "é" * 128, f"a/{'n' * 256}/b", f"{'n' * 256}/b"])
def test_a_name_that_is_too_long_is_found_before_anything_is_made(
    name: str, tmp_path: Path
) -> None:
    with pytest.raises(OutputError, match=r"^out must be a folder .*: File name too long; name an"):
        place.check_room(tmp_path / name, "out", "folder", within=(tmp_path / name).parent)
    assert list(tmp_path.iterdir()) == []


def test_room_is_what_the_file_system_says_and_nothing_where_it_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = SimpleNamespace(total=10**9, free=12_345_678)
    monkeypatch.setattr(place.shutil, "disk_usage", lambda _: disk)
    place.check_room(tmp_path / "x", "out", "folder", within=tmp_path, size=12_345_678)
    with pytest.raises(
        OutputError,
        match=r"^out must have room for 99\.0 MB, got .*x with 12\.3 MB free; free some space, or "
        r"name another \(out=FOLDER\)$",
    ):
        place.check_room(tmp_path / "x", "out", "folder", within=tmp_path, size=99_000_000)
    disk.total = disk.free = 0
    place.check_room(tmp_path / "x", "out", "folder", within=tmp_path, size=99_000_000)


@pytest.mark.parametrize("mode", [0o500, 0o000])
def test_a_folder_without_rights_is_found_before_any_work(mode: int, unprivileged: Path) -> None:
    closed = unprivileged / "closed"
    closed.mkdir()
    closed.chmod(mode)
    message = (
        r"^--out must be a file that can be written, got .*: Permission denied; name another "
        r"\(--out FILE\)$"
    )
    for within in (closed, closed / "new"):
        with pytest.raises(OutputError, match=message):
            place.check_room(within / "x", "--out", "file", within=within)
        with pytest.raises(OutputError, match=message):
            write_atomic(within / "x", b"new", "--out")
    closed.chmod(0o700)
    assert list(closed.iterdir()) == []


def test_a_full_disk_is_found_before_any_work(full_disk: Path) -> None:
    (full_disk / "more").write_bytes(b"\1" * 8 * 1024)
    with pytest.raises(
        OutputError, match=r"got .*: No space left on device; free some space, or name"
    ):
        place.check_room(full_disk / "x", "out", "folder", within=full_disk)
    assert sorted(path.name for path in full_disk.iterdir()) == ["more", "others"]


def test_errors_of_other_files_say_nothing_of_the_place(tmp_path: Path) -> None:
    with (
        pytest.raises(FileNotFoundError, match=r"/nowhere/config\.json"),
        new_folder(tmp_path / "out", "out"),
    ):
        Path("/nowhere/config.json").read_text()
    assert list(tmp_path.iterdir()) == []
