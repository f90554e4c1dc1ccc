"""Places that are awkward to write to, for root and for other users alike."""

import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

Limited = Callable[[int], AbstractContextManager[None]]


@pytest.fixture
def no_file_larger() -> Limited:
    """A context in which files cannot grow beyond a size, like a full disk, for any user."""

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
