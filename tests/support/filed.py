"""Records on file with samples of a test's own."""

from collections.abc import Sequence
from pathlib import Path

from harness.results.record import RunRecord, SampleScore
from harness.results.store import ResultStore, Stored


def file_with_samples(root: Path, record: RunRecord, samples: Sequence[SampleScore]) -> Stored:
    """Write a record of a model `m` with its samples."""
    assert record.task is not None
    store = ResultStore(root=root)
    path = store.path(record, task=record.task.name, model="m", recipe="r")
    name, digest = store.write_samples(path, samples)
    record = record.model_copy(update={"samples_file": name, "samples_sha256": digest})
    store.write(path, record)
    return Stored(path=path, record=record)
