"""The answer: the first section of a report, and what the command prints. At most 15 short lines.

Each group of runs has a line that says what was measured on what, and a line for each verdict with
the recipes that it was given. If that is too much, lists are cut first, and then the last groups.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from textwrap import shorten, wrap

from harness.claims import speed
from harness.claims.at_once import NO_BASELINE
from harness.claims.chance import at_chance
from harness.claims.claim import Answered, Claim, Comparison
from harness.claims.grouping import Row
from harness.claims.measure import ACCURACY, LOG_LOSS, measure_of
from harness.claims.recommendation import Recommendation, recommendations
from harness.claims.seeds import Fitted, fitted, of_run
from harness.claims.sentences import in_unit, size_in_words, what_it_takes, without_unit
from harness.claims.suspects import Suspect
from harness.claims.verdict import Verdict
from harness.messages import plural, visible
from harness.report.sections.parity import PARITY_WORDS, parity_of
from harness.report.sections.section import Section
from harness.report.titles import task_title
from harness.results import formatting as figures
from harness.results import names

NAME, TITLE = "answer", "The answer"
MOST_LINES = 15
WIDTH = 100
"""Longest line; Markdown adds the marks of code spans."""
MOST_OF_LIST = 5
"""So many lines a list may take if there is room."""
MOST_OF_LINE = 8
"""So many items a line may hold."""
LONGEST_ITEM = 120
NOTHING = "Nothing here is compared with an unquantized model; the tables have the values."
AT_CHANCE = ("Warning", ["the baseline is not above guessing: these scores show no loss"])
NO_MARGIN = (
    "Recommended: nothing without a margin, the largest loss that does not matter to you "
    "(--margin)."
)

Block = tuple[str, Sequence[tuple[str, Sequence[str]]]]
"""What is said of a group: its line, and lists, each with its heading and items."""


def answer(
    answered: Sequence[Answered], found: Sequence[Suspect], problems: Sequence[str] = ()
) -> Section:
    """Return the section; see `answer_lines`."""
    return Section(name=NAME, title=TITLE, text="\n".join(answer_lines(answered, found, problems)))


def answer_lines(
    answered: Sequence[Answered], found: Sequence[Suspect], problems: Sequence[str] = ()
) -> list[str]:
    """Return the lines of the answer as plain text, of which no name can break one.

    Args:
        answered: The groups with their claims.
        found: The suspect rows.
        problems: A line for each file or section that the report lacks.
    """
    last = [*_cautions(found, problems), *_recommended(answered, [each.row for each in found])]
    fits = fitted(answered)
    blocks = [block for each in answered if (block := _block(each, fits)) is not None]
    room = MOST_LINES - len(last)
    return [*(_fitting(blocks, room) or [NOTHING]), *last]


def _fitting(blocks: Sequence[Block], room: int) -> list[str]:
    """Return as much of the blocks as fits: lists in full or cut, or counts of the last."""
    sizes = {(id(block), heading): 1 for block in blocks for heading, _ in block[1]}
    if len(_written(blocks, sizes)) <= room:
        for size in range(2, MOST_OF_LIST + 1):
            for each in sizes:
                if len(_written(blocks, sizes | {each: size})) <= room:
                    sizes[each] = size
        return _written(blocks, sizes)
    for whole in range(len(blocks) - 1, -1, -1):
        lines = [*_written(blocks[:whole], sizes), *map(_counted, blocks[whole:])]
        if len(lines) <= room:
            return lines
    lines = [_counted(block) for block in blocks[: room - 1]]
    return [*lines, f"And {len(blocks) - len(lines)} further groups of runs in the tables."]


def _written(blocks: Sequence[Block], sizes: Mapping[tuple[int, str], int]) -> list[str]:
    """Return the lines of blocks; `sizes` has the most lines of each list."""
    lines = []
    for block in blocks:
        head, lists = block
        lines += wrap(visible(head), WIDTH, subsequent_indent="  ", break_on_hyphens=False)
        for heading, items in lists:
            lines += listed(f"- {heading}", items, sizes[id(block), heading])
    return lines


def _counted(block: Block) -> str:
    head, lists = block
    counts = (f"{heading.partition(' (')[0].lower()} {len(items)}" for heading, items in lists)
    return shorten(visible(f"{head} {', '.join(counts)}."), WIDTH, placeholder="...")


def listed(heading: str, items: Sequence[str], most: int) -> list[str]:
    """Return items after a heading in up to `most` lines; of too many the first ones and the last.

    Example:
        `- Worse: int8_g128 +0.2; int8_row +0.3; 9 more, up to int8_tensor +5.5.`
    """
    items = [shorten(visible(item), LONGEST_ITEM, placeholder="...") for item in items]
    lines: list[str] = []
    for num in range(min(len(items), most * MOST_OF_LINE), -1, -1):
        rest = len(items) - num - 1
        more = f"{rest} more, up to" if num else f"{rest + 1}, up to"
        last = [f"{more} {items[-1]}"] if rest > 0 else items[num:]
        text = f"{heading}: {'; '.join([*items[:num], *last])}."
        lines = wrap(text, WIDTH, subsequent_indent="  ", break_on_hyphens=False)
        if len(lines) <= most:
            break
    return lines[:most]


def _block(answered: Answered, fits: Sequence[Fitted]) -> Block | None:
    group = answered.group
    if group.task.name == names.THROUGHPUT:
        return f"{task_title(group)}, against float in turns:", [*_speeds(answered)]
    if group.task.name == names.PARITY:
        return f"{task_title(group)}, real against fake:", [*_parities(group.rows)]
    measure = measure_of(group.task.name)
    if measure is None:
        return None
    head = f"{task_title(group)}, {figures.count(group.headline)}"
    compared = _comparisons(answered, [each for each in fits if each.group is group])
    if not compared:
        why = NO_BASELINE if group.baseline is None else "no recipe, only the baseline"
        return (f"{head}: {why}.", []) if measure in (ACCURACY, LOG_LOSS) else None
    num = len(compared)
    lists = [*_lists(compared)]
    # More questions do not help a model that guesses.
    lists += [AT_CHANCE] if at_chance(group) is not None else [*_to_tell(compared)]
    return f"{head}; {num} {plural('recipe', num)} against the baseline:", lists


def _comparisons(answered: Answered, fits: Sequence[Fitted]) -> list[Comparison]:
    """Return what is compared with the baseline, best first; the seeds of a recipe together."""
    found: dict[str, Comparison] = {}
    for row in answered.group.rows:
        compared = answered.against_baseline.get(row.stored.record.run_id)
        if compared is None:
            continue
        recipe = of_run(fits, row.stored.record.run_id)
        if recipe is not None and recipe.has_enough and recipe.comparison is not None:
            compared = recipe.comparison
        found.setdefault(compared.row.label, compared)
    return [*found.values()]


def _lists(compared: Sequence[Comparison]) -> Iterator[tuple[str, Sequence[str]]]:
    claims = [each for each in compared if isinstance(each, Claim)]
    for heading, of_verdict in _by_heading(claims).items():
        # The smallest loss first, so that the end of a list that is cut is the largest.
        sized = sorted(of_verdict, key=lambda each: abs(each.difference.value))
        yield heading, [_in_short(each) for each in sized]
    if not_compared := [each.row.label for each in compared if not isinstance(each, Claim)]:
        yield "Not compared, the tables say why", not_compared


def _to_tell(compared: Sequence[Comparison]) -> Iterator[tuple[str, Sequence[str]]]:
    """Yield what it would take to tell the recipe that takes most."""
    claims = [each for each in compared if isinstance(each, Claim) and what_it_takes(each)]
    if claims:
        hardest = max(claims, key=lambda each: each.evidence.items_needed or 0)
        yield "To tell", [f"{what_it_takes(hardest)} ({hardest.row.label})"]


def _by_heading(claims: Iterable[Claim]) -> Mapping[str, list[Claim]]:
    order = (Verdict.EQUIVALENT, Verdict.CANNOT_TELL, Verdict.WORSE, Verdict.BETTER)
    found: dict[str, list[Claim]] = defaultdict(list)
    for each in sorted(claims, key=lambda each: order.index(each.verdict)):
        found[_heading(each)].append(each)
    return found


def _heading(claim: Claim) -> str:
    """Return the verdict and the unit of the differences."""
    evidence, unit = claim.evidence, in_unit(claim)[0].partition(" of ")[0]
    match claim.verdict:
        case Verdict.EQUIVALENT if evidence.margin is not None:
            verdict = f"Equivalent within {size_in_words(evidence.measure, evidence.margin)}"
        case Verdict.CANNOT_TELL if evidence.p is None:
            verdict = "Not tested"
        case Verdict.CANNOT_TELL:
            verdict = "Not distinguishable"
        case Verdict.WORSE if claim.reference is None:
            verdict = "Diverge by more than the noise floor"
        case _:
            verdict = str(claim.verdict).capitalize()
    return f"{verdict} ({unit})"


def _in_short(claim: Claim) -> str:
    """Return a recipe and its difference, such as `int8_row +0.238 [+0.115, +0.361]`."""
    # One fit may be luck of its draw: a recipe over its seeds has a name that says so.
    is_alone = claim.row.quant.calibration is not None and "over" not in claim.row.label
    return f"{claim.row.label} {without_unit(claim)}{', one calibration' if is_alone else ''}"


def _speeds(answered: Answered) -> Iterator[tuple[str, Sequence[str]]]:
    claims = [each for each in speed.speeds(answered.group) if each.way == "native"]
    for phase in dict.fromkeys(each.phase for each in claims):
        for verdict in speed.SpeedVerdict:
            found = [each for each in claims if (each.phase, each.verdict) == (phase, verdict)]
            sized = sorted(found, key=lambda each: -(each.ratio.value or 0.0))
            ratios = [
                f"{each.row.label} {figures.show_with_interval(each.ratio, '3 decimals')}"
                for each in sized
            ]
            if ratios:
                yield f"{str(verdict).capitalize()} in {phase} (ratio)", ratios


def _parities(rows: Sequence[Row]) -> Iterator[tuple[str, Sequence[str]]]:
    for verdict, words in PARITY_WORDS.items():
        if found := [row.label for row in rows if parity_of(row) is verdict]:
            yield words.capitalize(), found


def _cautions(found: Sequence[Suspect], problems: Sequence[str]) -> Iterator[str]:
    if found:
        rows = list(dict.fromkeys(f"{each.row.label} ({each.row.task.name})" for each in found))
        yield from listed("Suspect, see the section Suspect rows", rows, 1)
    if problems:
        num = len(problems)
        yield f"The report lacks {num} {plural('file', num)} or sections, see the next section."


def _recommended(answered: Sequence[Answered], suspect: Sequence[Row]) -> Iterator[str]:
    if not any(each.against_baseline for each in answered):
        return
    found = recommendations(answered, suspect)
    if not found:
        yield NO_MARGIN
        return
    models = {each.model.name for each in found}
    sizes = [_of_size(each, with_model=len(models) > 1) for each in found]
    yield from listed("Recommended within the margin", sizes, 2)


def _of_size(found: Recommendation, *, with_model: bool) -> str:
    where = f"{found.bits} bits of {found.model.name}" if with_model else f"{found.bits} bits"
    return f"{where}: {found.row.label if found.row is not None else 'none'}"
