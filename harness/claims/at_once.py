"""What a run says beside the runs that are on file, as soon as it ends.

The run is compared as a report would compare it: with the baseline of its group, together with the
other recipes of the group, so that its p-value is corrected for all of them.
"""

from collections.abc import Iterator, Sequence

from harness.claims.claim import against_baseline
from harness.claims.grouping import comparable
from harness.claims.measure import measure_of
from harness.claims.noise_floor import floor_of
from harness.claims.sentences import sentence
from harness.results.evidence import lost_evidence
from harness.results.parts import in_parts
from harness.results.record import RunRecord
from harness.results.store import Stored

NO_BASELINE = "no baseline on file to compare with; the same command without +quant measures it"


def at_once(run: Stored, beside: Sequence[Stored]) -> list[str]:
    """Return a sentence for each task of a run that is paired item by item.

    None for a baseline, and for a run without a recipe.

    Args:
        run: The run that has ended.
        beside: Records that may be of its group, itself included.
    """
    parts = in_parts([run])
    wanted = {part.record.task.name for part in parts if part.record.task is not None}
    if not any(map(measure_of, wanted)) or run.record.recipe in (None, "none"):
        return []
    known = [part for part in in_parts(beside) if _is_of(part.record, wanted)]
    return list(_sentences(run, [part for part in known if not lost_evidence(part)]))


def _is_of(record: RunRecord, tasks: set[str]) -> bool:
    return record.task is not None and record.task.name in tasks


def _sentences(run: Stored, known: Sequence[Stored]) -> Iterator[str]:
    groups = comparable(known)
    for group in groups:
        own = (row for row in group.rows if row.stored.record.run_id == run.record.run_id)
        row = next(own, None)
        if row is None or row.is_baseline:
            continue
        found = against_baseline(group, floor_of(group, groups)).get(run.record.run_id)
        yield NO_BASELINE if found is None else sentence(found)
