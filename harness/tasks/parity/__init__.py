"""Whether a real backend computes what the fake-quantized model of the same recipe computes.

`layers` compares layer by layer: each real layer gets the activations of its fake counterpart. This
is the proof. `statistics` compares the models end to end, as in `harness.tasks.divergence`, and
gives the verdict. `parity` makes the prompts and runs both.
"""

from harness.tasks.parity.parity import Parity

__all__ = ["Parity"]
