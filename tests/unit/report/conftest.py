"""Records of a study, and a folder to file them in."""

from collections.abc import Callable
from pathlib import Path

import builders
import pytest
from items import with_items
from studies import MakeRecord, record_maker

from harness.results.record import Metric, RunRecord
from harness.results.store import ResultStore


@pytest.fixture
def make_record() -> MakeRecord:
    return record_maker()


@pytest.fixture
def parse_rate() -> Metric:
    """What a record of generated answers has beside its accuracy."""
    return builders.metric(
        "parse_rate", 0.9, unit="fraction", n=1000, n_of="question", higher_is_better=True
    )


@pytest.fixture
def file_records(tmp_path: Path) -> Callable[..., Path]:
    """Write records and their samples to a results folder and return it."""

    def write(*records: RunRecord, task: str = "t") -> Path:
        store = ResultStore(root=tmp_path / "results")
        for record in records:
            path = store.path(record, task=task, model="m", recipe="r")
            path.parent.mkdir(parents=True, exist_ok=True)
            # Not `store.write`, which waits for the disk.
            path.write_text(with_items(path, record).model_dump_json())
        return store.root

    return write
