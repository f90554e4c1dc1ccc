"""The error of a format in a matmul of random matrices: `operands` draws them, `metrics` summarizes the draws."""

from harness.tasks.matmul.matmul import MatmulError

__all__ = ["MatmulError"]
