"""The sections of a report, in order.

If a section cannot be written, the report lists it and has all others.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType

from harness.claims import claim
from harness.claims.claim import Answered
from harness.claims.grouping import comparable
from harness.claims.measure import Measure
from harness.claims.suspects import marked, suspects
from harness.errors import HarnessError
from harness.report.sections.answer import answer
from harness.report.sections.answers import answer_changes
from harness.report.sections.calibration import calibration_seeds, calibrations
from harness.report.sections.divergence import divergences
from harness.report.sections.engines import engine_runs
from harness.report.sections.fake_real import fake_against_real
from harness.report.sections.granularity import formats_by_granularity
from harness.report.sections.group_sizes import group_size_trend
from harness.report.sections.layers import by_layer
from harness.report.sections.leads import leads
from harness.report.sections.left_out import known_to_be_wrong, unusable
from harness.report.sections.matmul import matmul_errors
from harness.report.sections.mmlu import direct_against_generate
from harness.report.sections.noise import noise_floor
from harness.report.sections.parity import parities
from harness.report.sections.published import published_figures
from harness.report.sections.quality import quality_against_bits
from harness.report.sections.ranking import ranking
from harness.report.sections.reading import reading
from harness.report.sections.records import records
from harness.report.sections.scales import cost_of_scales
from harness.report.sections.section import Section
from harness.report.sections.sizes import sizes
from harness.report.sections.smoothquant import smoothquant
from harness.report.sections.subjects import subjects
from harness.report.sections.suspects import suspect_rows
from harness.report.sections.throughput import throughput
from harness.report.sections.unfinished import not_ok, not_supported
from harness.report.sections.verdicts import verdicts
from harness.report.sections.warnings import warnings
from harness.report.shape import shaped
from harness.report.titles import told_apart
from harness.results.store import Stored

Builder = Callable[[], Section | Sequence[Section | None] | None]
"""Makes the sections of one kind; None stands for a section that has nothing to say."""

APPENDICES = Section(
    name="appendices",
    title="Appendices",
    text="What the tables above are made from: sentences, sizes, subjects, warnings, records, and "
    "how to read it all.",
)


def collect(
    stored: Sequence[Stored], answered: Sequence[Answered], problems: list[str], path: Path
) -> list[Section]:
    """Return every section that is not empty; pictures are written beside `path`.

    If a section fails, its error is added to `problems`, which have a section of their own.
    """
    suspect = suspects(answered)
    answered = marked(answered, suspect)
    found = [*_made(partial(suspect_rows, suspect), problems)]
    for build in builders(stored, answered, path):
        found += _made(build, problems)
    found.append(APPENDICES)
    for build in appendices(stored, answered):
        found += _made(build, problems)
    # The answer says what the report lacks, so it is made last.
    first = _made(partial(answer, answered, suspect, problems), problems)
    found = [*first, *_made(partial(unusable, problems), problems), *found]
    return _numbered([shaped(section) for section in found])


def _made(build: Builder, problems: list[str]) -> list[Section]:
    """Return the sections of a builder; if it fails, its error is added to `problems`."""
    try:
        return made_by(build)
    except HarnessError as reason:
        problems.append(f"a section of the report is missing: {reason}")
    except Exception as reason:  # an error in one section must not cost the whole report
        problems.append(
            f"a section of the report is missing: {type(reason).__name__}: {reason}; "
            "either a record was edited, or quant-harness has a fault: then report it with the "
            "records"
        )
    return []


def _numbered(found: Sequence[Section]) -> list[Section]:
    """Return the sections with unique titles; sections that share a title are numbered."""
    total, seen = Counter(section.title for section in found), Counter[str]()
    numbered = []
    for section in found:
        title = section.title
        seen[title] += 1
        if total[title] > 1:
            section = replace(section, title=f"{title} ({seen[title]} of {total[title]})")
        numbered.append(section)
    return numbered


def made_by(build: Builder) -> list[Section]:
    """Return the sections of a builder as a list, without None."""
    made = build()
    several = [made] if made is None or isinstance(made, Section) else made
    return [section for section in several if section is not None]


def answered_of(
    stored: Sequence[Stored], margins: Mapping[Measure, float] = MappingProxyType({})
) -> list[Answered]:
    """Return the groups of the records, titles that tell them apart included, and their claims."""
    return claim.answer(told_apart(comparable(stored)), margins)


def builders(
    stored: Sequence[Stored], answered: Sequence[Answered], path: Path
) -> Iterator[Builder]:
    """Yield a function for each section, in the order of the questions that a study asks."""
    groups = [each.group for each in answered]
    for number, each in enumerate(answered, start=1):
        picture = path.with_name(f"{path.stem}-throughput-{number}.png")
        yield partial(_of_group, each, answered, stored, picture)
    for number, each in enumerate(answered, start=1):
        picture = path.with_name(f"{path.stem}-quality-{number}.png")
        yield partial(quality_against_bits, each, picture)
    yield from (partial(formats_by_granularity, each) for each in answered)
    yield from (partial(group_size_trend, each) for each in answered)
    yield partial(direct_against_generate, groups)
    yield from (partial(fake_against_real, each, groups) for each in answered)
    yield partial(smoothquant, answered)
    yield partial(matmul_errors, stored)
    yield partial(cost_of_scales, groups)
    yield partial(published_figures, stored)
    yield partial(engine_runs, stored)


def appendices(stored: Sequence[Stored], answered: Sequence[Answered]) -> Iterator[Builder]:
    """Yield a function for each section that a reader looks things up in."""
    groups = [each.group for each in answered]
    yield partial(verdicts, answered)
    yield partial(sizes, groups)
    yield partial(by_layer, groups)
    yield partial(calibrations, groups)
    yield partial(calibration_seeds, answered)
    yield from (partial(subjects, group) for group in groups)
    yield partial(known_to_be_wrong, stored)
    yield partial(not_supported, stored)
    yield partial(not_ok, stored)
    yield partial(warnings, stored)
    yield partial(records, stored)
    yield reading


def _of_group(
    each: Answered, answered: Sequence[Answered], stored: Sequence[Stored], picture: Path
) -> Sequence[Section | None]:
    """Return the tables of this task alone; for a task without such tables, the ranking."""
    group = each.group
    own = (
        divergences(each),
        answer_changes(each),
        noise_floor(group),
        parities(group),
        throughput(group, answered, stored, picture),
    )
    if any(own):
        return own
    return (ranking(each), leads(each))
