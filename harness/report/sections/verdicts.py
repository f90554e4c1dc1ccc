"""A sentence for each recipe: the verdict, the difference and the test behind it.

The sentences are those of the claims that the tables below are written from. One group of runs is
written out; of groups that do not fit beside it only the verdicts are counted.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.claims import speed, speed_words
from harness.claims.at_once import NO_BASELINE
from harness.claims.claim import Answered, Claim, Comparison
from harness.claims.grouping import Group
from harness.claims.measure import ACCURACY, LOG_LOSS, measure_of
from harness.claims.seeds import ALONE, Fitted, fitted, of_run
from harness.claims.sentences import sentence
from harness.messages import plural
from harness.report.sections.section import Section
from harness.report.titles import task_title

TITLE = "Claims in sentences"
MOST_SENTENCES = 12
"""So many recipes have a sentence of their own; the tables have all of them."""
READING = (
    "Each recipe against its baseline: the verdict, the difference with its 95 % interval, and the "
    'test behind them. "Not distinguishable" does not mean "equal".'
)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Said:
    """What is said of one recipe."""

    sentence: str
    verdict: str


def verdicts(answered: Sequence[Answered]) -> Section | None:
    """Return the sentences of all groups; None if nothing was compared."""
    fits = fitted(answered)
    lines, room = [READING], MOST_SENTENCES
    for each in answered:
        title, said = task_title(each.group), _said(each, fits)
        if not said:
            lines += [f"{title}: {NO_BASELINE}."] if _lacks_baseline(each.group) else []
            continue
        # The first group is written out however many recipes it has.
        num = min(room, len(said)) if len(said) <= room or room == MOST_SENTENCES else 0
        room -= num
        lines.append(f"{title}:" if num else f"{title}: {_counted(said)}.")
        lines += [f"{each.sentence}." for each in said[:num]]
        if 0 < num < len(said):
            lines.append(f"And {_counted(said[num:])}.")
    return Section(name="claims", title=TITLE, text="\n".join(lines)) if len(lines) > 1 else None


def _lacks_baseline(group: Group) -> bool:
    is_compared = measure_of(group.task.name) in (ACCURACY, LOG_LOSS)
    return is_compared and group.baseline is None


def _said(answered: Answered, fits: Sequence[Fitted]) -> list[_Said]:
    """Return what is said of the recipes of a group, best first, each once."""
    compared = answered.against_baseline
    # A run of several tasks has one id in all of its groups.
    fits = [each for each in fits if each.group is answered.group]
    rows = (row.stored.record.run_id for row in answered.group.rows)
    of_quality = [
        said
        for run in rows
        if run in compared
        for said in _of_run(compared[run], answered.leads.get(run), of_run(fits, run))
    ]
    # The seeds of one recipe are said together.
    return [*dict.fromkeys([*of_quality, *_of_speed(answered)])]


def _of_run(
    compared: Comparison, lead: Comparison | None, recipe: Fitted | None
) -> Iterable[_Said]:
    yield _of_recipe(compared, recipe)
    if lead is not None:
        yield _Said(sentence=sentence(lead), verdict=f"lead {_verdict(lead)}")


def _of_recipe(compared: Comparison, recipe: Fitted | None) -> _Said:
    if recipe is not None and recipe.sentence is not None and recipe.comparison is not None:
        return _Said(sentence=recipe.sentence, verdict=_verdict(recipe.comparison))
    is_fitted = compared.row.quant.calibration is not None
    alone = f"; {ALONE}" if is_fitted else ""
    return _Said(sentence=f"{sentence(compared)}{alone}", verdict=_verdict(compared))


def _verdict(compared: Comparison) -> str:
    return str(compared.verdict) if isinstance(compared, Claim) else "not compared"


def _of_speed(answered: Answered) -> Iterable[_Said]:
    found = speed.speeds(answered.group)
    for row in answered.group.rows:
        claims = [each for each in found if each.row is row]
        if claims:
            verdict = ", ".join(f"{each.phase} {each.verdict}" for each in _native(claims))
            yield _Said(sentence=speed_words.sentence(claims), verdict=verdict)


def _native(claims: Sequence[speed.Speed]) -> list[speed.Speed]:
    return [each for each in claims if each.way == "native"]


def _counted(said: Sequence[_Said]) -> str:
    """Return how often each verdict was given, such as `2 worse; 1 cannot tell`."""
    times = Counter(each.verdict for each in said)
    words = "; ".join(f"{num} {verdict}" for verdict, num in times.items())
    return f"{len(said)} {plural('recipe', len(said))} in the table below (Holm): {words}"
