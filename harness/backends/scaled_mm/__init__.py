"""INT8 and FP8 layers on the integer and FP8 matmuls of torch: `layers` multiplies, `backend` decides which layer a recipe gets."""

from harness.backends.scaled_mm.backend import ScaledMMBackend

__all__ = ["ScaledMMBackend"]
