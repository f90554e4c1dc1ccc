"""Items on file for records that were made by hand: a report shows no result without them."""

from pathlib import Path

from harness.results.record import RunRecord, SampleScore, Status
from harness.results.store import ResultStore


def with_items(store: ResultStore, path: Path, record: RunRecord) -> RunRecord:
    """Write as many items as the first metric counts, if the record has none; return the record that names them."""
    if record.status is not Status.OK or record.samples_file or not record.metrics:
        return record
    headline = record.metrics[0]
    if headline.n_of == "token":
        samples = [SampleScore(id="all", cluster="0", scores={"num_tokens": headline.n})]
    else:
        samples = [SampleScore(id=str(i), cluster="0", scores={}) for i in range(headline.n)]
    name, digest = store.write_samples(path, samples)
    return record.model_copy(update={"samples_file": name, "samples_sha256": digest})
