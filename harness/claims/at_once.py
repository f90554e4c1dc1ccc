"""What a run says beside the runs that are on file, as soon as it ends.

The run is compared as a report would compare it, together with the other recipes of its group, so
that its p-value is corrected for all of them. It is compared with the baseline of the group; if it
was measured beside the unquantized model (divergence, throughput), with that. The noise floor that
is on file limits what is said.
"""

from collections.abc import Iterator, Sequence

from harness.claims import speed_words
from harness.claims.chance import at_chance
from harness.claims.claim import Answered, against_baseline, leads
from harness.claims.grouping import Row, comparable
from harness.claims.measure import measure_of
from harness.claims.noise_floor import floor_of
from harness.claims.seeds import ALONE, fitted, of_run
from harness.claims.sentences import sentence
from harness.claims.speed import speeds
from harness.claims.suspects import suspects
from harness.messages import visible
from harness.results import names
from harness.results.evidence import lost_evidence
from harness.results.parts import in_parts
from harness.results.record import RunRecord
from harness.results.store import Stored

NO_BASELINE = "no baseline on file to compare with; the same command without +quant measures it"


def at_once(run: Stored, beside: Sequence[Stored]) -> list[str]:
    """Return sentences for each task of a run that is paired item by item, or timed.

    None for a baseline, and for a run without a recipe.

    Args:
        run: The run that has ended.
        beside: Records that may be of its group, itself included, and noise floors.
    """
    parts = in_parts([run])
    wanted = {part.record.task.name for part in parts if part.record.task is not None}
    is_compared = any(measure_of(task) or task == names.THROUGHPUT for task in wanted)
    if not is_compared or run.record.recipe in (None, "none"):
        return []
    counted = wanted | {names.NOISE_FLOOR}
    known = [part for part in in_parts(beside) if _is_of(part.record, counted)]
    sentences = _sentences(run, [part for part in known if not lost_evidence(part)])
    return [visible(each) for each in sentences]


def _is_of(record: RunRecord, tasks: set[str]) -> bool:
    return record.task is not None and record.task.name in tasks


def _sentences(run: Stored, known: Sequence[Stored]) -> Iterator[str]:
    groups, own_id = comparable(known), run.record.run_id
    for group in groups:
        own = (row for row in group.rows if row.stored.record.run_id == own_id)
        row = next(own, None)
        if row is None or row.is_baseline:
            continue
        if group.task.name == names.THROUGHPUT:
            claims = [each for each in speeds(group) if each.row is row]
            yield from [speed_words.sentence(claims)] if claims else []
            continue
        floor = floor_of(group, groups)
        compared = against_baseline(group, floor)
        found = compared.get(own_id)
        yield NO_BASELINE if found is None else sentence(found)
        of_leads = leads(group)
        if own_id in of_leads:
            yield sentence(of_leads[own_id])
        answered = Answered(
            group=group, floor=floor, against_baseline=compared, leads=of_leads, tiers=None
        )
        if found is not None and row.quant.calibration is not None:
            yield _over_seeds(answered, own_id)
        yield from _cautions(answered, row)


def _cautions(answered: Answered, row: Row) -> Iterator[str]:
    """Yield why the numbers of a run must not be taken at their word."""
    chance = at_chance(answered.group)
    if chance is not None:
        yield f"warning: {chance}"
    own = (each for each in suspects([answered]) if each.row is row)
    yield from (f"{row.label} is suspect: {each.reason}" for each in own)


def _over_seeds(answered: Answered, run_id: str) -> str:
    """Return what is claimed over the calibration seeds of a run's recipe."""
    recipe = of_run(fitted([answered]), run_id)
    return (recipe and recipe.sentence) or ALONE
