"""Which pictures the harness drew."""

from pathlib import Path

import pytest
from matplotlib.figure import Figure
from repository import ROOT

from harness.output.picture import METADATA, is_own

REPORTS = ROOT / "reports" / "published"


def drawn(path: Path, **metadata: str) -> Path:
    figure = Figure(figsize=(1, 1))
    figure.add_subplot().plot([1, 2])
    figure.savefig(path, **({"metadata": metadata} if metadata else {}))
    return path


def test_a_picture_of_the_harness_is_known(tmp_path: Path) -> None:
    assert is_own(drawn(tmp_path / "a.png", **METADATA))
    assert is_own(drawn(tmp_path / "old.png", Software=""))


@pytest.mark.parametrize("metadata", [{}, {"Software": "GIMP"}, {"Title": "quant-harness"}])
def test_a_picture_of_another_program_is_not(metadata: dict[str, str], tmp_path: Path) -> None:
    assert not is_own(drawn(tmp_path / "a.png", **metadata))


@pytest.mark.parametrize(
    "content", [b"", b"\x89PNG", b"mine", b"tEXtSoftware\0quant-harness", b"\x89PNGtEXtSoftware\0"]
)
def test_what_is_no_picture_is_not(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(content)
    assert not is_own(tmp_path / "a.png")


@pytest.mark.parametrize("path", sorted(REPORTS.glob("*.png")), ids=lambda path: path.name)
def test_pictures_on_file_are_known(path: Path) -> None:
    assert is_own(path)
