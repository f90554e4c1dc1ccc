"""Whether a real backend computes what the fake-quantized model of the same recipe computes.

`parity` makes the prompts and asks an engine about both forms of the model: layer by layer, where
each real layer gets the activations of its fake counterpart, and end to end. `statistics` makes the
figures, as in `harness.tasks.divergence`, and the verdict.
"""

from harness.tasks.parity.parity import Parity

__all__ = ["Parity"]
