"""Samples are read once, until their file changes."""

from pathlib import Path

import pytest
from builders import record
from filed import file_with_samples

from harness.errors import ResultError
from harness.results.once import once_a_file
from harness.results.record import SampleScore
from harness.results.store import Stored, read_samples


def filed(root: Path, num: int = 2) -> Stored:
    samples = [SampleScore(id=f"q{i}", cluster="s", scores={"correct": 1.0}) for i in range(num)]
    return file_with_samples(root, record(), samples)


def test_a_file_is_read_again_after_it_changed(tmp_path: Path) -> None:
    calls = []

    @once_a_file()
    def size(stored: Stored, *, more: int = 0) -> int:
        calls.append(stored)
        return len(read_samples(stored)) + more

    stored = filed(tmp_path)
    assert [size(stored), size(stored)] == [2, 2]
    assert len(calls) == 1
    assert size(stored, more=5) == 7
    assert len(calls) == 2
    assert size(filed(tmp_path, num=3)) == 3
    file = stored.path.parent / str(stored.record.samples_file)
    file.write_bytes(b"damaged")
    with pytest.raises(ResultError):
        size(stored)
    file.unlink()
    with pytest.raises(ResultError):
        size(stored)


def test_only_so_many_results_are_kept(tmp_path: Path) -> None:
    calls = []

    @once_a_file(keep=1)
    def path(stored: Stored) -> Path:
        calls.append(stored.path)
        return stored.path

    one, other = filed(tmp_path / "a"), filed(tmp_path / "b")
    for stored in (one, one, other, one):
        assert path(stored) == stored.path
    assert calls == [one.path, other.path, one.path]
