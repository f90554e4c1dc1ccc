"""How many samples show a difference, and how small a difference some samples show; no torch.

`expected` has the error that a difference will have, observed between two runs or assumed. `delta`
reads a size that was typed. `on_file` finds pairs of runs and durations in records. `sentences`
puts a plan into words.
"""

from harness.plan.expected import Expected, assumed_flips, observed

__all__ = ["Expected", "assumed_flips", "observed"]
