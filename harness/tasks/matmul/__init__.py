"""The error of a format in a matmul of random matrices: no model, no data set.

`operands` draws activations and weights, `matmul` rounds them and multiplies, and `metrics`
summarizes the errors over the draws.
"""

from harness.tasks.matmul.matmul import MatmulError

__all__ = ["MatmulError"]
