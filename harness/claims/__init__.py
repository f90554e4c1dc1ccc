"""From records to claims: what two runs over the same samples say, as data.

`grouping` says which records may be compared, and `row_names` names them. `paired` pairs two runs
sample by sample, with the `scores` of each; `noise_floor` is what differences must exceed.
`verdict` weighs the evidence, `claim` compares whole families of runs, `tiers` all pairs of a
group, and `sentences` puts a claim into words.

`seeds` claims something of a recipe over its calibration seeds. `speed` claims which recipes are
faster than the unquantized model, and `speed_words` puts that into words.

`suspects` marks rows that break a rule which holds for every model, and `chance` says where
accuracies are not above guessing.
"""

from harness.claims.claim import Answered, Claim, Comparison, NotCompared, answer, family
from harness.claims.grouping import Group, Row, comparable
from harness.claims.verdict import Verdict

__all__ = [
    "Answered",
    "Claim",
    "Comparison",
    "Group",
    "NotCompared",
    "Row",
    "Verdict",
    "answer",
    "comparable",
    "family",
]
