"""Data sets that runs are calibrated on and score."""

from pathlib import Path

import pytest
from data_folder import PROSE, DataFolder


@pytest.fixture
def data(tmp_path: Path) -> DataFolder:
    folder = DataFolder(tmp_path / "data")
    folder.wikitext("test", *(f"{PROSE} {n}" for n in range(3)))
    folder.mmlu("test", "Asked?")
    folder.mmlu("dev", *(f"Solved {n}?" for n in range(9)))
    return folder
