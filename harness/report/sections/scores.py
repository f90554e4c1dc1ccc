"""The tables of a report: each a question, and the rows that answer it."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from harness import stats
from harness.messages import plural
from harness.report.grouping import Group, Row
from harness.report.paired_differences import MMLU_TASKS
from harness.report.sections.differences import Columns, of_itself, of_pair
from harness.results import formatting as figures
from harness.results.record import Metric, Unit

GROUPS = ("g512", "g256", "g128", "g64", "g32", "g16")
GRANULARITIES = ("tensor", "row", *GROUPS)
QUESTION = "question"
"""What `n` counts where subjects are asked about."""
ELEMENTS = {"int8": "INT8", "fp8_e4m3fn": "FP8 E4M3"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """A heading, what to know before reading on, and a table."""

    title: str
    text: str
    table: pd.DataFrame | None = None
    """Cells are finished text."""
    picture: str | None = None
    """File name of a picture beside the report."""


def ranking(group: Group, noise: str | None = None, least: float = 0.0) -> Section:
    """Every recipe with its value, n, interval, and paired difference from the baseline of the same group.

    `noise` says what differs without any quantization; a log-loss that differs by at most `least` [nat/token] is no difference.
    """
    baseline = group.baseline
    columns = Columns("difference from baseline", "differs from baseline")
    rows, notes = [], [_why_none(group.headline)]
    for row in group.rows:
        cells = {
            "recipe": row.label,
            row.headline.name.replace("_", " "): figures.number(row.headline),
            "95 % interval": figures.interval(row.headline),
            "n": figures.count(row.headline),
        }
        if baseline is None:
            found = of_itself(row, columns, "no baseline")
        elif row is baseline:
            found = of_itself(row, columns, "0 (baseline)")
        else:
            found = of_pair(row, baseline, columns, least)
        notes.append(found.note and f"Difference: {found.note}.")
        cells |= found.cells
        cells["bits/weight"] = f"{row.quant.bits_per_weight:.3f}"
        cells["path"] = figures.path(row.quant)
        rows.append(cells)
    better = "higher" if group.headline.higher_is_better else "lower"
    chance = " Guessing among four choices gives 25 %." if group.task.name in MMLU_TASKS else ""
    lines = [
        f"Protocol: {group.task.protocol}",
        f"Model: {_model(group)}",
        f"Sorted by value, {better} is better. The first interval is of each row by itself, the second of its paired difference from "
        f"the baseline.{chance}",
        *dict.fromkeys(filter(None, (*notes, noise))),
    ]
    return Section(title=_title(group), text="\n".join(lines), table=pd.DataFrame(rows))


def _why_none(headline: Metric) -> str | None:
    """Return why a headline has no interval."""
    if headline.ci95 is not None:
        return None
    return f"Value: {headline.note or 'no interval'}."


def formats_by_granularity(group: Group) -> Section | None:
    """INT8 beside FP8 at each granularity, if both were measured at one at least."""
    columns = Columns("INT8 - FP8", "INT8 is")
    rows, pairs, notes = [], 0, []
    if not group.is_quality:
        return None
    for granularity in GRANULARITIES:
        found = {name: group.find(element, granularity) for element, name in ELEMENTS.items()}
        if not any(found.values()):
            continue
        int8, fp8 = found["INT8"], found["FP8 E4M3"]
        cells = {"granularity": granularity}
        cells |= {name: _headline(row) for name, row in found.items()}
        if int8 and fp8:
            pairs += 1
            beside = of_pair(int8, fp8, columns)
            notes.append(beside.note)
        else:
            beside = of_itself(group.rows[0], columns, figures.MISSING)
        rows.append(cells | beside.cells)
    if not pairs:
        return None
    return Section(
        title=f"INT8 against FP8 by granularity: {_title(group)}",
        text="\n".join(
            [
                f"{_cell_words(group)} Same model, data and protocol in every cell; the interval is of the paired difference.",
                *dict.fromkeys(filter(None, notes)),
            ]
        ),
        table=pd.DataFrame(rows),
    )


def group_size_trend(group: Group) -> Section | None:
    """Quality and bits per weight as groups shrink, for each element format."""
    rows = []
    if not group.is_quality:
        return None
    for granularity in GRANULARITIES:
        cells = {"one scale for": _spell(granularity)}
        for element, name in ELEMENTS.items():
            row = group.find(element, granularity)
            cells[f"{name} bits/weight"] = (
                f"{row.quant.bits_per_weight:.3f}" if row else figures.MISSING
            )
            cells[name] = _headline(row)
        if any(group.find(element, granularity) for element in ELEMENTS):
            rows.append(cells)
    if len(rows) < 2 or not any(row.granularity in GROUPS for row in group.rows):
        return None
    return Section(
        title=f"Group-size trend: {_title(group)}",
        text=f"{_cell_words(group)} Coarsest first. bits/weight counts the scales.",
        table=pd.DataFrame(rows),
    )


def direct_against_generate(groups: Sequence[Group]) -> list[Section]:
    """Both ways of asking MMLU, where they were asked the same questions of the same model."""
    return [
        _both_ways(direct, generate)
        for direct in groups
        for generate in groups
        if (direct.task.name, generate.task.name) == MMLU_TASKS
        and _questions(direct) == _questions(generate)
    ]


def _questions(group: Group) -> tuple[object, ...]:
    data, model = group.task.data, group.model
    hashes = data["questions_sha256"], data["examples_sha256"], data["num_shots"]
    return (*hashes, model.fingerprint, model.dtype, model.device)


def _both_ways(direct: Group, generate: Group) -> Section:
    others = {row.label: row for row in generate.rows}
    columns = Columns("generate - direct", "generate is")
    rows, notes = [], []
    for row in direct.rows:
        other = others.get(row.label)
        if other is None:
            continue
        found = of_pair(other, row, columns)
        notes.append(found.note)
        rows.append(
            {
                "recipe": row.label,
                "direct": figures.number(row.headline),
                "generate": figures.number(other.headline),
                **found.cells,
                "parse rate": figures.number(other.metric("parse_rate")),
                "generate, first character": figures.number(other.metric("accuracy_first_char")),
                "ties, direct": figures.count_of(row.metric("ties")),
            }
        )
    return Section(
        title=f"MMLU, direct against generate: {direct.model.name}{direct.suffix}",
        text="\n".join(
            [
                f"The same {figures.count(direct.headline)}. Direct takes the likeliest letter; generate reads the "
                "decoded text, strictly (what cannot be read counts as wrong) or by its first character. p is of McNemar's exact test.",
                *dict.fromkeys(filter(None, notes)),
            ]
        ),
        table=pd.DataFrame(rows),
    )


def subjects(group: Group) -> Section | None:
    """Accuracy of each subject under each recipe, for tasks that ask questions of subjects."""
    prefix = f"{group.headline.name}/"
    found = [m for m in group.rows[0].stored.record.metrics if m.name.startswith(prefix)]
    if len(found) < 2 or any(metric.n_of != QUESTION for metric in found):
        return None
    rows = []
    for metric in found:
        cells = {"subject": metric.name.removeprefix(prefix), "n": str(metric.n)}
        cells |= {row.label: figures.number(row.metric(metric.name)) for row in group.rows}
        rows.append(cells)
    counts = [metric.n for metric in found]
    return Section(
        title=f"By subject: {_title(group)}",
        text=f"{_spread(min(counts))} {_spread(max(counts))} Differences within such intervals say nothing of the recipes; "
        "the records have the interval of each figure.",
        table=pd.DataFrame(rows),
    )


def _spread(n: int) -> str:
    """Return how little an accuracy over n questions says."""
    low, high = stats.wilson(n // 2, n)
    return f"With {n // 2} of {n:,} {plural(QUESTION, n)} right the 95 % interval is {figures.share(low)} .. {figures.share(high)}."


def _title(group: Group) -> str:
    return f"{group.task.name} of {group.model.name} ({group.task.data['name']}){group.suffix}"


def _model(group: Group) -> str:
    model = group.model
    text = f"{model.name}, {model.dtype} on {model.device}, {model.origin}"
    if model.origin.startswith("dequantized"):
        text += " - dequantized low-bit weights, not the original float model"
    return text


def _cell_words(group: Group) -> str:
    """Return what the cells of a table are."""
    metric = group.headline
    unit = "" if metric.unit in (Unit.FRACTION, Unit.ONE) else f" [{metric.unit}]"
    better = "higher" if metric.higher_is_better else "lower"
    return f"Cells are {metric.name.replace('_', ' ')}{unit}, {better} is better."


def _headline(row: Row | None) -> str:
    return figures.number(row.headline) if row else figures.MISSING


def _spell(granularity: str) -> str:
    if granularity in ("tensor", "row"):
        return f"a whole {granularity}"
    return f"{granularity.removeprefix('g')} weights"
