"""Audits somebody else's Markdown: recomputes its tables, and says what they cannot support.

`document` reads tables and prose with their lines, `quantity` the numbers in cells, `sheet` what
columns mean (by the words of `words`), and `derivation` how columns of differences were made.
`sample_count` finds how many samples stand behind a table, and `flips` says what so many can show.
`study` is all of it together; each file of `checks/` finds one kind of fault in it.
"""

from harness.audit.audit import audit
from harness.audit.finding import Fault, Finding

__all__ = ["Fault", "Finding", "audit"]
