"""A machine without a folder for temporary files, as on a full disk."""

import sys
import tempfile

import pytest

from harness.errors import OutputError
from harness.output.temporary import check_temporary
from harness.tensor.__main__ import main


@pytest.fixture(autouse=True)
def _no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/proc/none", "/dev/null"])


def test_it_is_told_in_one_line() -> None:
    with pytest.raises(
        OutputError, match=r"^TMPDIR must be .*free some space, or set TMPDIR=FOLDER$"
    ):
        check_temporary()


def test_a_command_says_so_before_it_imports_what_needs_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["tensor", "formats"])
    with pytest.raises(SystemExit, match="1"):
        main()
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("TMPDIR must be a folder that can be written")
    assert printed.err.count("\n") == 1
