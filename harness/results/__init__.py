"""What a run leaves on disk: one JSON record, and a file of its samples. No torch.

`record` is the schema, `names` lists the tasks and metrics in it. `store` writes, finds and reads
records, and `frame` reads a folder of them into one table. `evidence` checks that the samples
belong to the record, `damage` explains broken files, `outdated` recognizes records with numbers
that are known to be wrong. `formatting` and `float_paths` write numbers as text.
"""

from harness.results.frame import load_results
from harness.results.record import Metric, RunRecord, Status
from harness.results.store import ResultStore, Stored, read, read_samples

__all__ = [
    "Metric",
    "ResultStore",
    "RunRecord",
    "Status",
    "Stored",
    "load_results",
    "read",
    "read_samples",
]
