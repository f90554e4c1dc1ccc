"""Whether a real backend computes what its fake-quantized form does: `layers` feeds both the same activations, layer by layer."""

from harness.tasks.parity.parity import Parity

__all__ = ["Parity"]
