"""How exactly a layer multiplies: its relative error, measured.

What a library computes depends on the processor: bitsandbytes' 4-bit kernel multiplies in bfloat16
where a CPU has instructions for it, and a GPU may round float32 operands to TF32. So the first
layer of every kind multiplies random activations X `[M, K]`, and its output Y is compared with a
float64 matmul of the layer's own codes:

    error = |Y - (Q(X) Q(W)^T + b)| / |Q(X) Q(W)^T + b|

with Frobenius norms, and Q(X) = X where activations are not rounded. The record names the widest
float type whose rounding explains the error:

1. Rounding to a type with unit roundoff u has a relative error of at most u. Its root mean square
   is u / sqrt(3).
2. Two operands and a result are rounded, independently of each other: sqrt(3) u / sqrt(3) = u.
3. Sums of K terms in float32 add sqrt(K) 2^-24 (Higham and Mary, 2019).
4. So the type must have error <= 1.5 u + sqrt(K) 2^-24. TF32 has the precision of float16 and is
   named float16.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from harness.backends.layer import QuantizedLayer
from harness.errors import AuditError
from harness.models.loaded import LoadedModel
from harness.models.targets.targets import Target
from harness.quant.primitives import encode, quantize
from harness.results.record import Compute

Precision = Literal["float32", "float16", "bfloat16"]
UNIT_ROUNDOFF: Mapping[Precision, float] = {
    "float32": 2.0**-24,
    "float16": 2.0**-11,
    "bfloat16": 2.0**-8,
}
"""Unit roundoff by type, the most precise first."""
NUM_ROWS = (1, 64)
"""Numbers of rows M: many kernels take another path for one row (decode) than for a prompt."""
MOST_CHANNELS = 512
"""At most so many output channels are compared: a large layer in float64 would take gigabytes."""
WRONG = 2.0**-4
"""A larger error is no rounding: the layer multiplies other codes, scales or activations."""


class Operands(NamedTuple):
    """What a layer should multiply."""

    weight: Tensor
    """Dequantized, float32 `[N, K]`."""
    rounded: Callable[[Tensor], Tensor]
    """Rounds an activation `[M, K]` as the layer does; the result is float32 or wider."""
    spread: float = 1.0
    """Standard deviation of the activations to draw; static scales fit one size only."""


class Layer(NamedTuple):
    """A linear layer in place, and what it should multiply."""

    name: str
    module: nn.Module
    operands: Operands
    bias: Tensor | None


@runtime_checkable
class OwnOperands(Protocol):
    """A backend whose layers change operands otherwise than by rounding to the recipe's formats."""

    def operands(self, loaded: LoadedModel, target: Target, layer: QuantizedLayer) -> Operands:
        """Return what the layer in the place of a target should multiply."""


def operands_of(layer: QuantizedLayer) -> Operands:
    """Return what a quantized layer should multiply: its codes, and activations in their format."""
    weight, fmt, static = layer.weight.dequantize(), layer.input, layer.input_scales
    # Activations stay as they are, are rounded with scales of their own, or with static ones.
    if fmt is None:
        return Operands(weight, lambda x: x)
    if static is None:
        return Operands(weight, lambda x: quantize(x, fmt).dequantize())
    # Static scales fit the model's own activations. Random ones must have their size, with the
    # largest at 4 standard deviations: smaller ones would all round to zero.
    largest = float(static.combined().values.max()) * fmt.element.max
    return Operands(weight, lambda x: encode(x, fmt, static).dequantize(), largest / 4)


def worst_compute(layers: Iterable[Layer], loaded: LoadedModel) -> Compute | None:
    """Multiply with every layer and return the largest error; None if there is none to measure.

    Raises:
        AuditError: A layer multiplies something else than its codes.
    """
    found = (_compute(layer, loaded) for layer in layers)
    return max((c for c in found if c), key=lambda compute: compute.rel_error, default=None)


@torch.inference_mode()
def _compute(layer: Layer, loaded: LoadedModel) -> Compute | None:
    """Return the error of one layer; None for a weight of zeros, which has no relative error."""
    weight, rounded, spread = layer.operands
    # Output channels spread over the layer; each is a dot product of its own.
    channels = torch.linspace(0, len(weight) - 1, min(len(weight), MOST_CHANNELS)).long()
    weight_CK = weight.cpu()[channels].double()
    bias_C = 0.0 if layer.bias is None else layer.bias.cpu()[channels].double()
    worst = 0.0
    for rows in NUM_ROWS:
        # Drawn on the CPU with a fixed seed: the same numbers on every device.
        shape = rows, weight.shape[1]
        x_MK = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * spread
        # Cast before both sides use it: rounding the random numbers to the model's type is no error
        # of the layer.
        x_MK = x_MK.to(loaded.dtype).to(loaded.device)
        # float64 on the CPU: exact beside any error that is to be found.
        expected_MC = rounded(x_MK).cpu().double() @ weight_CK.T + bias_C
        if not (norm := float(expected_MC.norm())):
            return None
        found_MC = layer.module(x_MK).cpu()[:, channels].double()
        error = float((found_MC - expected_MC).norm()) / norm
        if not error <= WRONG:  # NaN too
            raise AuditError(
                f"the matmul of layer {layer.name} must be that of its codes, got a relative error "
                f"of {error:.2g} for activations of {rows} rows: its kernel is wrong on this "
                "processor, or for this shape; choose another backend"
            )
        worst = max(worst, error)
    return Compute(dtype=_explained_by(worst, weight.shape[1]), rel_error=worst, layer=layer.name)


def _explained_by(error: float, terms: int) -> Precision | None:
    """Return the widest type whose rounding explains an error; step 4 of the module docstring."""
    # The bounds grow from type to type, so the first that covers the error is the most precise.
    sums = math.sqrt(terms) * UNIT_ROUNDOFF["float32"]
    return next((name for name, u in UNIT_ROUNDOFF.items() if error <= 1.5 * u + sums), None)


def compute_warnings(compute: Compute | None, backend: str, loaded: LoadedModel) -> tuple[str, ...]:
    """Return a warning if matmuls are less exact than the model's type."""
    wanted = loaded.dtype_name
    # None, an error that no type explains, comes last.
    order: list[str | None] = [*UNIT_ROUNDOFF, None]
    if compute is None or order.index(compute.dtype) <= order.index(wanted):
        return ()
    return (
        f"matmuls of {backend} are {compute.words} on this processor, though the model is {wanted}",
    )
