"""Suspect rows: results that break a rule which holds whatever the model is.

| rule | where it is looked for | file |
|---|---|---|
| finer scales have no larger weight error | recipes of one INT or FP format | `scales` |
| no changed weight, no changed score | layers with an error of 0 | `samples` |
| a real backend computes what its fake-quantized form does | `task=parity` | `quality` |
| scores in float32 are not all bfloat16 numbers | losses in the samples | `samples` |
| recipes do not decide how often an answer can be read | `task=mmlu_generate` | `samples` |
| no recipe is better than the unquantized model | corrected claims | `quality` |

A suspect row may be right. It must be explained before anybody uses it.
"""

from harness.claims.suspects.rules import suspects
from harness.claims.suspects.suspect import MARK, Suspect, marked

__all__ = ["MARK", "Suspect", "marked", "suspects"]
