"""The result of a comparison as text, as Markdown for a job summary, or as JSON."""

import json
from collections.abc import Sequence

import pandas as pd

from harness.claims.claim import Claim, Comparison, NotCompared
from harness.claims.sentences import reference_of, sentence, shown, size_in_words
from harness.compare.gate import Decided, Decision, overall
from harness.messages import visible
from harness.report.markdown import escape
from harness.results import formatting as figures

WORDS = {
    Decision.NOT_WORSE: "not worse",
    Decision.WORSE: "worse",
    Decision.CANNOT_TELL: "cannot tell",
    Decision.INVALID: "invalid comparison",
}


def as_text(decided: Sequence[Decided]) -> str:
    """Return a line for each comparison, and one for all."""
    lines = [
        visible(f"{WORDS[each.decision]}: {_said(each.comparison)}{_left_open(each)}")
        for each in decided
    ]
    return "\n".join([*lines, f"all in all: {WORDS[overall(decided)]}"]) + "\n"


def as_markdown(decided: Sequence[Decided]) -> str:
    """Return a table for the summary of a job on GitHub."""
    rows = [_cells(each) for each in decided]
    table = pd.DataFrame(rows).map(escape).to_markdown(index=False)
    return f"### Comparison: {WORDS[overall(decided)]}\n\n{table}\n"


def as_json(decided: Sequence[Decided]) -> str:
    """Return all comparisons as JSON."""
    found = {
        "decision": WORDS[overall(decided)],
        "comparisons": [
            _cells(each) | {"sentence": _said(each.comparison) + _left_open(each)}
            for each in decided
        ],
    }
    return json.dumps(found, indent=1, ensure_ascii=False) + "\n"


def _said(comparison: Comparison) -> str:
    """Return what a comparison says in one sentence; for a run without a partner, why."""
    if comparison.reference is None and isinstance(comparison, NotCompared):
        return f"{comparison.row.label}, {comparison.row.task.name}: {comparison.reason}"
    return sentence(comparison)


def _left_open(each: Decided) -> str:
    """Return what was not shown of a margin; the verdict beside it is about a margin of 0."""
    found = each.comparison
    if each.decision is not Decision.CANNOT_TELL or each.margin is None:
        return ""
    assert isinstance(found, Claim)  # noqa: S101 - others are invalid
    margin = size_in_words(found.evidence.measure, each.margin)
    return f"; the loss may be smaller or larger than the margin, {margin}"


def _cells(each: Decided) -> dict[str, str]:
    found = each.comparison
    cells = {
        "task": found.row.task.name,
        "candidate": found.row.label,
        "reference": figures.MISSING if found.reference is None else reference_of(found),
        "decision": WORDS[each.decision],
    }
    if not isinstance(found, Claim):
        return cells | {"why": found.reason}
    p, measure = found.evidence.p, found.evidence.measure
    return cells | {
        "difference, 95 % interval": shown(found),
        "margin": figures.MISSING if each.margin is None else size_in_words(measure, each.margin),
        "p of no difference": figures.MISSING if p is None else figures.p_value(p),
        "n": f"{found.difference.num_items:,}",
    }
