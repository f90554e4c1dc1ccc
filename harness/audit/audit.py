"""A Markdown text in, findings out."""

from harness.audit.checks import CHECKS
from harness.audit.finding import Finding
from harness.audit.study import Study


def audit(study: Study) -> list[Finding]:
    """Return what all checks find in a document, sorted by line."""
    return sorted({found for check in CHECKS for found in check(study)})
