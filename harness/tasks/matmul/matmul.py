"""Task `matmul`: error of a matmul with rounded operands, on random matrices.

    Y = X W^T       X [M, K] activations, W [K, K] weights; blocks of a format run along K, so a row
                    of X is a token

    weights:   e = X dW^T                       dW = q(W) - W
    inputs:    e = dX W^T                       dX = q(X) - X
    both:      e = dX W^T + q(X) dW^T           = q(X) q(W)^T - Y

    rel_error = |e|_F / |Y|_F       max_error = max|e| / rms(Y)
    element_error = mean|dX| / mean|X|          of X itself, without a matmul

An error is computed as a matmul of differences, never as a difference of matmuls: float32 then
keeps seven digits of the error instead of seven digits of Y, and a format that rounds nothing has
an error of exactly 0. Sums are float64.

Some published tables of "matrix-multiply error" hold `element_error`. It is smaller: rounding both
operands of a matmul gives sqrt(2) times the error of rounding one, and a mean of magnitudes weighs
large errors less than a norm does.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from harness.display.progress import bar
from harness.errors import InvalidResult, check_bounds
from harness.formats.overflow import overflow_in
from harness.quant.primitives import fake_quantize
from harness.quant.tensor import TensorFormat
from harness.results.record import Metric, SampleScore, TaskInfo
from harness.tasks.base import TaskResult
from harness.tasks.matmul import operands as matmul_operands
from harness.tasks.matmul.metrics import ELEMENT, case_metrics
from harness.tasks.matmul.operands import KINDS, Case, Inputs, draw

PROBE_SHAPE = (4, 16)
"""M and K of the draws whose hash identifies the random generator."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MatmulError:
    """Error of a matmul with rounded operands; see the module docstring."""

    name: ClassVar[str] = "matmul"
    version: ClassVar[int] = 1
    needs_trained_weights: ClassVar[bool] = False
    is_timed: ClassVar[bool] = False

    formats: Mapping[str, TensorFormat]
    """Name in metrics -> format."""
    ratios: tuple[tuple[str, str], ...] = ()
    """Pairs of names of formats; a ratio is the error of the first over the error of the second."""
    shapes: tuple[tuple[int, int], ...] = ((16, 512),)
    """M and K of each size."""
    inputs: tuple[Inputs, ...] = KINDS
    """Distributions that X is drawn from."""
    draws: int = 10
    """Number of independent draws of X and W for each case."""
    seed: int = 42
    """Seed of the draws."""
    max_rows: int | None = 512
    """Number of rows of X to multiply, from the first; None is all. All rows decide the scales."""

    def __post_init__(self) -> None:
        """Check the bounds of fields, and that ratios are of formats that are measured."""
        check_bounds(self, draws=1, seed=0, max_rows=1)
        if not (self.formats and self.shapes and self.inputs):
            raise ValueError("formats, shapes and inputs must not be empty")
        if any(size < 1 for shape in self.shapes for size in shape):
            raise ValueError(f"shapes must hold sizes >= 1, got {self.shapes}")
        if unknown := {name for pair in self.ratios for name in pair} - self.formats.keys():
            raise ValueError(
                f"ratios must be of formats that are measured ({', '.join(self.formats)}), "
                f"got {min(unknown)}"
            )

    @property
    def seeds(self) -> dict[str, int]:
        """The seed of all draws."""
        return {"task.seed": self.seed}

    def cases(self) -> tuple[Case, ...]:
        """Return every shape with every kind of activations."""
        return tuple(Case(kind, *shape) for shape in self.shapes for kind in self.inputs)

    def data_facts(self) -> dict[str, Any]:
        """Return a hash of a few draws, which identifies the random generator."""
        digest = hashlib.sha256()
        for kind in self.inputs:
            for operand in draw(Case(kind, *PROBE_SHAPE), self.seed, 0):
                digest.update(operand.numpy().astype("<f4").tobytes())
        return {"name": "random matrices", "probe_sha256": digest.hexdigest()}

    def run_on(self, device: torch.device) -> TaskResult:
        """Measure every format on every draw."""
        samples = []
        with bar(self.name, len(self.cases()) * self.draws) as progress:
            for case in self.cases():
                for index in range(self.draws):
                    x, w = (operand.to(device) for operand in draw(case, self.seed, index))
                    with overflow_in(case.name):
                        scores = self._scores(x, w)
                    _check_finite(scores, case.name)
                    identity = f"{case.name}/{index}"
                    samples.append(SampleScore(id=identity, cluster=identity, scores=scores))
                    progress.advance()
        return TaskResult(
            info=self._info(), metrics=tuple(self._metrics(samples)), samples=tuple(samples)
        )

    def _scores(self, x_MK: Tensor, w_NK: Tensor) -> dict[str, float]:
        """Return every error of one draw: `<measure>/<format>` -> value."""
        rows = slice(self.max_rows)
        y = x_MK[rows] @ w_NK.T
        size, x_size = _norm(y), _norm(x_MK, 1)
        rms = size / math.sqrt(y.numel())
        scores = {}
        for name, fmt in self.formats.items():
            rounded = fake_quantize(x_MK, fmt)
            dx, dw = rounded - x_MK, fake_quantize(w_NK, fmt).sub_(w_NK)
            of_inputs = dx[rows] @ w_NK.T
            errors = {
                "both": of_inputs + rounded[rows] @ dw.T,
                "weights": x_MK[rows] @ dw.T,
                "inputs": of_inputs,
            }
            for operands, e in errors.items():
                scores[f"rel_error/{operands}/{name}"] = _norm(e) / size
                scores[f"max_error/{operands}/{name}"] = float(e.abs().max()) / rms
            scores[f"{ELEMENT}/{name}"] = _norm(dx, 1) / x_size
        return scores

    def _metrics(self, samples: Sequence[SampleScore]) -> Iterator[Metric]:
        """Yield the means over the draws of each case."""
        for start, case in enumerate(self.cases()):
            drawn = samples[start * self.draws : (start + 1) * self.draws]
            scores = {key: [sample.scores[key] for sample in drawn] for key in drawn[0].scores}
            yield from case_metrics(case.name, scores, self.formats, self.ratios)

    def _info(self) -> TaskInfo:
        rows = "all" if self.max_rows is None else f"first-{self.max_rows}"
        return TaskInfo(
            name=self.name,
            version=self.version,
            protocol=(
                f"Y=X[M,K] W[K,K]^T|{matmul_operands.protocol()}"
                f"|draws={self.draws}-by-seed-{self.seed}|rows={rows}|scales=fitted to each matrix"
                "|products=fp32 of differences|sums=fp64|ratio=geometric mean, paired by draw"
            ),
            data=self.data_facts()
            | {
                "inputs": list(self.inputs),
                "shapes": [f"{m}x{k}" for m, k in self.shapes],
                "formats": {name: fmt.name for name, fmt in self.formats.items()},
                "ratios": [list(pair) for pair in self.ratios],
            },
            needs_model=False,
        )


def _check_finite(scores: Mapping[str, float], case: str) -> None:
    """Raise InvalidResult for an error that is not finite."""
    if bad := [key for key, value in scores.items() if not math.isfinite(value)]:
        raise InvalidResult(
            f"every error must be finite, got {scores[bad[0]]} for {bad[0]} in {case}; "
            "the format cannot hold these numbers"
        )


def _norm(x: Tensor, order: int = 2) -> float:
    return float(torch.linalg.vector_norm(x, order, dtype=torch.float64))
