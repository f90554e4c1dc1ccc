"""What a run says beside the runs that are on file, as soon as it ends.

The run is compared as a report would compare it, together with the other recipes of its group, so
that its p-value is corrected for all of them. It is compared with the baseline of the group; if it
was measured beside the unquantized model (divergence, throughput), with that. The noise floor that
is on file limits what is said.
"""

from collections.abc import Iterator, Mapping, Sequence

from harness.claims import speed_words
from harness.claims.chance import at_chance
from harness.claims.claim import Answered, against_baseline, leads
from harness.claims.grouping import Group, Row, comparable
from harness.claims.measure import measure_of
from harness.claims.noise_floor import Floor, floor_of
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
    return together([run], beside)[run.record.run_id]


def together(runs: Sequence[Stored], beside: Sequence[Stored]) -> Mapping[str, list[str]]:
    """Return the id of each run -> the sentences of `at_once`; a group is compared once for all.

    Args:
        runs: Runs that have ended.
        beside: Records that may be of their groups, the runs included, and noise floors.
    """
    said: dict[str, list[str]] = {run.record.run_id: [] for run in runs}
    compared = {run.record.run_id: tasks for run in runs if (tasks := _compared_tasks(run))}
    if not compared:
        return said
    counted = {names.NOISE_FLOOR}.union(*compared.values())
    known = [part for part in in_parts(beside) if _is_of(part.record, counted)]
    groups = comparable([part for part in known if not lost_evidence(part)])
    for group in groups:
        rows = {row.stored.record.run_id: row for row in reversed(group.rows)}
        own = [row for each, row in rows.items() if each in compared and not row.is_baseline]
        for row, sentence_of_row in _sentences(group, own, floor_of(group, groups)) if own else ():
            said[row.stored.record.run_id].append(visible(sentence_of_row))
    return said


def _compared_tasks(run: Stored) -> set[str]:
    """Return the tasks of a run; none if it is a baseline, or no task of it is compared."""
    parts = in_parts([run])
    found = {part.record.task.name for part in parts if part.record.task is not None}
    is_compared = any(measure_of(task) or task == names.THROUGHPUT for task in found)
    return found if is_compared and run.record.recipe not in (None, "none") else set()


def _is_of(record: RunRecord, tasks: set[str]) -> bool:
    return record.task is not None and record.task.name in tasks


def _sentences(group: Group, own: Sequence[Row], floor: Floor | None) -> Iterator[tuple[Row, str]]:
    """Yield what the runs of a group say, each with its row."""
    if group.task.name == names.THROUGHPUT:
        timed = speeds(group)
        for row in own:
            if claims := [each for each in timed if each.row is row]:
                yield row, speed_words.sentence(claims)
        return
    answered = Answered(
        group=group,
        floor=floor,
        against_baseline=against_baseline(group, floor),
        leads=leads(group),
        tiers=None,
    )
    for row in own:
        yield from ((row, text) for text in _of_row(answered, row))


def _of_row(answered: Answered, row: Row) -> Iterator[str]:
    own_id = row.stored.record.run_id
    found = answered.against_baseline.get(own_id)
    yield NO_BASELINE if found is None else sentence(found)
    if own_id in answered.leads:
        yield sentence(answered.leads[own_id])
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
