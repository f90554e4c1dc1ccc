"""Published figures, and whether a run reproduces them.

`schema` says what a file of `conf/anchors` holds, and `files` reads them. `published_model` finds
the published model that a record is of, and `protocol` compares options. `comparison` compares a
run with the figures of its model and recipe, and `sentences` puts what it finds into words. `python
-m harness.anchors` lists the figures.
"""

from harness.anchors.comparison import Agreement, Finding, findings
from harness.anchors.files import anchors
from harness.anchors.schema import Anchor
from harness.anchors.sentences import check, sentence

__all__ = ["Agreement", "Anchor", "Finding", "anchors", "check", "findings", "sentence"]
