"""What a run leaves on disk: one JSON record, and its samples. No torch.

`record` is the schema, `store` writes and finds records. `evidence` checks that samples are those of the record, `damage` explains
broken files, `outdated` recognizes records that a mended fault made wrong. `formatting` and `float_paths` put figures into words.
"""

from harness.results.record import Metric, RunRecord, Status
from harness.results.store import ResultStore, Stored, read, read_samples

__all__ = ["Metric", "ResultStore", "RunRecord", "Status", "Stored", "read", "read_samples"]
