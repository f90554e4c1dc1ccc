"""Samples on file for records that were made by hand: a report shows no result without them."""

import hashlib
import math
from functools import cache
from pathlib import Path

from harness.results.record import RunRecord, SampleScore, Status
from harness.results.store import SAMPLES_SUFFIX, encoded, samples_frame


def with_items(path: Path, record: RunRecord) -> RunRecord:
    """Write samples that give the first metric, if the record has none; return the new record."""
    if record.status is not Status.OK or record.samples_file or not record.metrics:
        return record
    headline = record.metrics[0]
    content = _content(headline.n_of, headline.n, headline.value or 0.0)
    file = path.with_suffix(SAMPLES_SUFFIX)
    file.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    return record.model_copy(update={"samples_file": file.name, "samples_sha256": digest})


@cache
def _content(n_of: str, n: int, value: float) -> bytes:
    if n_of == "token":
        scores = {"num_tokens": n, "nll": n * math.log(max(value, 1.0))}
        samples = [SampleScore(id="all", cluster="0", scores=scores)]
    else:
        right = round(value * n)
        samples = [
            SampleScore(id=str(i), cluster="0", scores={"correct": float(i < right)})
            for i in range(n)
        ]
    return encoded(samples_frame(samples))
