"""The bench of reports: the records it makes are whole, and a report shows all of them."""

from pathlib import Path
from types import ModuleType

import pytest
from script_modules import load_script

from harness.report.intake import take_in


@pytest.fixture
def bench() -> ModuleType:
    return load_script("bench_report")


def test_a_report_takes_all_records_in(bench: ModuleType, tmp_path: Path) -> None:
    assert bench.fill(tmp_path / "results", models=1, recipes=3) == 6
    stored, problems = take_in(tmp_path / "results")
    assert (len(stored), problems) == (6, [])
    assert len({item.record.run_id for item in stored}) == 6
    found = bench.measure(tmp_path / "results", tmp_path / "reports")
    assert found["user_s"] > 0
    assert found["report_bytes"] == next((tmp_path / "reports").glob("*.md")).stat().st_size
    assert found["peak_bytes"] > 2**26
