"""Places that are awkward to write to, for root and for other users alike."""

import os
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

NOBODY = 65534
Limited = Callable[[int], AbstractContextManager[None]]


@pytest.fixture
def unprivileged() -> Iterator[Path]:
    """A folder of a user that root's rights do not help; the test runs as that user."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    is_root = os.geteuid() == 0
    if is_root:
        os.chown(folder, NOBODY, NOBODY)
        os.setegid(NOBODY)
        os.seteuid(NOBODY)
    try:
        yield folder
    finally:
        if is_root:
            os.seteuid(0)
            os.setegid(0)
        for made in [folder, *folder.rglob("*")]:
            if made.is_dir() and not made.is_symlink():
                made.chmod(0o700)
        shutil.rmtree(folder)


@pytest.fixture
def no_file_larger() -> Limited:
    """Return a context in which a file cannot grow beyond a size: what a full disk does, in any folder and for any user."""

    @contextmanager
    def limited(size: int) -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limited


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 kB with 8 kB free; only root can mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root can mount a disk; RLIMIT_FSIZE stands in for it in other tests")
    try:
        (folder / "others").write_bytes(b"\1" * 56 * 1024)
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)
