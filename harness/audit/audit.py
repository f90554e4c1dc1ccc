"""A Markdown text in, findings out."""

from collections import defaultdict

from harness.audit.checks import CHECKS
from harness.audit.finding import Fault, Finding
from harness.audit.study import Study
from harness.messages import plural


def audit(study: Study) -> list[Finding]:
    """Return what all checks find in a document, sorted by line.

    A finding that a repeated table repeats word for word is returned once, with all its lines.
    """
    lines: defaultdict[tuple[Fault, str], set[int]] = defaultdict(set)
    for check in CHECKS:
        for found in check(study):
            lines[found.fault, found.text].add(found.line)
    return sorted(_merged(*what, sorted(at)) for what, at in lines.items())


def _merged(fault: Fault, text: str, lines: list[int]) -> Finding:
    first, *others = lines
    again = f" (also {plural('line', len(others))} {', '.join(map(str, others))})" if others else ""
    return Finding(first, fault, f"{text}{again}")
