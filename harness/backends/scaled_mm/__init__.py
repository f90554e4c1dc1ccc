"""INT8 and FP8 linear layers of our own, on the 8-bit matmuls of torch.

Torch has the matmuls but no layers for them. The chapters:

    backend        decides which layer a rule gets, installs it, compares it with the codes
    stored_linear  the base of all layers, and the one for weight-only formats: it dequantizes
    int8_weight    INT8 weights and float activations: the activation is split into INT8 digits
    w8a8           weights and activations in INT8 or FP8
"""

from harness.backends.scaled_mm.backend import ScaledMMBackend

__all__ = ["ScaledMMBackend"]
