"""MMLU asked in two ways: the likeliest letter beside the generated answer."""

from collections.abc import Sequence

import pandas as pd

from harness.claims.claim import family
from harness.claims.grouping import Group
from harness.report.sections.differences import Columns, of_comparison
from harness.report.sections.section import Section
from harness.results import formatting as figures
from harness.results import names

COLUMNS = Columns("generate - direct", "generate is")


def direct_against_generate(groups: Sequence[Group]) -> list[Section]:
    """Return a table for each pair of groups that asked one model the same questions."""
    return [
        _both_ways(direct, generate)
        for direct in groups
        for generate in groups
        if (direct.task.name, generate.task.name) == (names.MMLU, names.MMLU_GENERATE)
        and _questions(direct) == _questions(generate)
    ]


def _questions(group: Group) -> tuple[object, ...]:
    """Return what identifies the questions, the prompts and the model."""
    data, model = group.task.data, group.model
    hashes = data["questions_sha256"], data["examples_sha256"], data["num_shots"]
    return (*hashes, model.fingerprint, model.dtype, model.device)


def _both_ways(direct: Group, generate: Group) -> Section:
    generated = {row.label: row for row in generate.rows}
    pairs = [(generated[row.label], row) for row in direct.rows if row.label in generated]
    rows, notes = [], []
    for (other, row), found in zip(pairs, family(pairs), strict=True):
        difference = of_comparison(found, COLUMNS)
        notes.append(difference.note)
        by_first_character = other.metric(names.ACCURACY_FIRST_CHAR)
        rows.append(
            {
                "recipe": row.label,
                "direct": figures.show(row.headline),
                "generate": figures.show(other.headline),
                **difference.cells,
                "parse rate": figures.show(other.metric(names.PARSE_RATE)),
                "generate, first character": figures.show(by_first_character),
                "ties, direct": figures.show(row.metric(names.TIES), "count"),
            }
        )
    explained = (
        f"The same {figures.count(direct.headline)}. Direct takes the likeliest letter; generate "
        "reads the decoded text, strictly (what cannot be read counts as wrong) or by its first "
        "character. p is of McNemar's exact test."
    )
    return Section(
        name="direct-against-generate",
        title=f"Direct against generate: MMLU of {direct.model.name}{direct.suffix}",
        text="\n".join([explained, *dict.fromkeys(filter(None, notes))]),
        table=pd.DataFrame(rows),
    )
