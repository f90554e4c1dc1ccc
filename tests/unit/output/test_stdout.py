"""Standard output that cannot be written, in a child: Python writes once more at its end."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys
from harness.errors import OutputError
from harness.output.stdout import printing
try:
    with printing():
        sys.stdout.write("row\\n" * int(sys.argv[1]))
except OutputError as reason:
    sys.exit(str(reason))
"""
ROWS = pytest.mark.parametrize("rows", ["50000", "1"], ids=["written at once", "kept in a buffer"])


@pytest.fixture(autouse=True)
def _buffered(monkeypatch: pytest.MonkeyPatch) -> None:
    """With PYTHONUNBUFFERED, as containers set it, a child would have no buffer."""
    monkeypatch.setenv("PYTHONUNBUFFERED", "")


@ROWS
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_told_in_one_line(rows: str) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, rows],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == (
        "standard output must be writable, got: No space left on device; free some space, or send "
        "it elsewhere\n"
    )


@ROWS
def test_a_reader_who_has_seen_enough_is_no_error(rows: str) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, rows], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert child.stdout is not None
    assert child.stderr is not None
    if rows != "1":  # of a single row he has seen enough before the child writes it
        child.stdout.readline()
    child.stdout.close()
    assert child.stderr.read() == b""
    child.stderr.close()
    assert child.wait() == 0
