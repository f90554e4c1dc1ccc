"""Random operands of a matmul: activations X [M, K] and weights W [K, K], float32.

    normal              X, W ~ N(0, 1)
    heavy_tailed        X, W ~ Student's t, 3 degrees of freedom
    outlier_channels    X, W ~ N(0, 1); then K / 128 columns of X, at least one, times 30 to 100, as
                        in the activations of language models (Dettmers et al., "LLM.int8()", 2022;
                        Xiao et al., "SmoothQuant", 2023)

Seed, number of the draw, kind and shape decide the random numbers.
"""

from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

Inputs = Literal["normal", "heavy_tailed", "outlier_channels"]
KINDS: tuple[Inputs, ...] = get_args(Inputs)
DEGREES_OF_FREEDOM = 3
OUTLIER_EVERY = 128
OUTLIER_FACTORS = (30.0, 100.0)


class Case(NamedTuple):
    """Kind and shape of the operands."""

    kind: Inputs
    m: int
    k: int

    @property
    def name(self) -> str:
        """Such as `normal/16x512`."""
        return f"{self.kind}/{self.m}x{self.k}"


def draw(case: Case, seed: int, index: int) -> tuple[Tensor, Tensor]:
    """Return X `[M, K]` and W `[K, K]`; each pair of case and index has its own random numbers."""
    kind, m, k = case
    generator = np.random.default_rng((seed, index, KINDS.index(kind), m, k))

    def numbers(rows: int) -> np.ndarray[Any, np.dtype[np.float32]]:
        if kind == "heavy_tailed":
            return generator.standard_t(DEGREES_OF_FREEDOM, (rows, k)).astype(np.float32)
        return generator.standard_normal((rows, k), dtype=np.float32)

    x, w = numbers(m), numbers(k)
    if kind == "outlier_channels":
        count = max(k // OUTLIER_EVERY, 1)
        columns = generator.choice(k, count, replace=False)
        x[:, columns] *= generator.uniform(*OUTLIER_FACTORS, count).astype(np.float32)
    return torch.from_numpy(x), torch.from_numpy(w)


def protocol() -> str:
    """Return what defines the distributions, for the record."""
    low, high = OUTLIER_FACTORS
    return (
        f"heavy_tailed=t{DEGREES_OF_FREEDOM}"
        f"|outlier_channels=K/{OUTLIER_EVERY} columns of X x {low:g}..{high:g}"
    )
