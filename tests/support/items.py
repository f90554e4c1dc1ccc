"""Samples on file for records that were made by hand: a report shows no result without them."""

import math
from pathlib import Path

from harness.results.record import RunRecord, SampleScore, Status
from harness.results.store import ResultStore


def with_items(store: ResultStore, path: Path, record: RunRecord) -> RunRecord:
    """Write samples that give the first metric, if the record has none; return the new record."""
    if record.status is not Status.OK or record.samples_file or not record.metrics:
        return record
    headline = record.metrics[0]
    value = headline.value or 0.0
    if headline.n_of == "token":
        scores = {"num_tokens": headline.n, "nll": headline.n * math.log(max(value, 1.0))}
        samples = [SampleScore(id="all", cluster="0", scores=scores)]
    else:
        right = round(value * headline.n)
        samples = [
            SampleScore(id=str(i), cluster="0", scores={"correct": float(i < right)})
            for i in range(headline.n)
        ]
    name, digest = store.write_samples(path, samples)
    return record.model_copy(update={"samples_file": name, "samples_sha256": digest})
