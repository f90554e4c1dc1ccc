"""How to read the tables of a report. It stands after what was found, and before the tables."""

from harness.report.sections.section import Section

TITLE = "How to read the tables"
TEXT = """\
A headline has its n and a 95 % interval: by document for figures over text, Wilson's over \
questions for accuracy, Student's t over draws for matmuls.
A difference is taken only between runs of one protocol, item by item. It has an interval, a p and \
a verdict; where an interval is missing, a line above the table says why.
The comparisons of a table are a family: their p is corrected for the number of comparisons \
(Holm), so that the chance of one false verdict in a table is at most 5 %. The verdict is \
"cannot tell" where that p is 0.05 or more, which is not "equal".
A column without an interval or a p beside it (percentiles, agreement, values by subject or group \
size, counts, bits and bytes) describes these items and claims nothing about others.
A path says how a recipe was run: none (float), fake-quant, or real with the backend and, where it \
was measured, the type that its products are as exact as and their largest relative error.
pp are percentage points; % is a share, or a relative change where the column says so. How \
intervals are made: docs/evaluation.md."""


def reading() -> Section:
    """Return the section, which is the same in every report."""
    return Section(name="reading", title=TITLE, text=TEXT)
