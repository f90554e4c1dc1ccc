"""Which kernels of vLLM run which quantized layer, and warnings for layers that no kernel runs.

`KERNELS` has the conditions from the sources of vLLM 0.11.0 (GPU) and 0.32.0 (CPU). Those of the
CPU were tried as well (docs/checkpoints.md). vLLM joins q, k and v, and gate and up. K is the same
in the joined layer, and N is a sum of multiples. So if each layer fits a kernel, the joined one
does too.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeGuard

import torch

from harness.backends.layer import LayerRule
from harness.export.layouts.layout import Contents, integer_format, unwrapped
from harness.formats.minifloat import Minifloat
from harness.quant.schemes.affine import Affine
from harness.quant.schemes.block_scaled import BlockScaled
from harness.quant.tensor import TensorFormat

PER_CHANNEL, PER_TENSOR, BLOCK_128, OTHER_BLOCK = -1, 0, -128, -2
"""Values in place of a group size: per-channel, per-tensor, blocks of 128 x 128, blocks of another
shape."""
HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True, kw_only=True, slots=True)
class Kernel:
    """A kernel, and its conditions on a layer."""

    name: str
    device: str
    weights: tuple[str, ...]
    """`int4`, `int8` or `fp8`; with `+zero` for zero points."""
    rounds_activations: bool = False
    groups: tuple[int, ...] | None = None
    """Group sizes, or the values above; None: any group size, and per-channel."""
    multiples: tuple[int, int] = (1, 1)
    """N (outputs) and K (inputs) must be multiples of these two."""
    dtypes: tuple[torch.dtype, ...] = HALF
    """Types of the model."""


KERNELS = (
    Kernel(
        name="Marlin",
        device="GPU",
        weights=("int4", "int8", "int4+zero"),
        groups=(PER_CHANNEL, 32, 64, 128),
        multiples=(64, 128),
    ),
    Kernel(
        name="Machete (Hopper)",
        device="GPU",
        weights=("int4", "int8", "int4+zero", "int8+zero"),
        groups=(PER_CHANNEL, 64, 128),
        multiples=(128, 64),
    ),
    Kernel(
        name="AllSpark (Ampere)",
        device="GPU",
        weights=("int8",),
        groups=(PER_CHANNEL,),
        multiples=(16, 16),
    ),
    Kernel(
        name="ExLlama",
        device="GPU",
        weights=("int4", "int8"),
        groups=(16, 32, 64, 128, 256),
        multiples=(8, 1),
        dtypes=(torch.float16,),
    ),
    Kernel(
        name="FP8 Marlin",
        device="GPU",
        weights=("fp8",),
        groups=(PER_CHANNEL, PER_TENSOR),
        multiples=(64, 128),
    ),
    Kernel(
        name="CUTLASS INT8",
        device="GPU",
        weights=("int8",),
        rounds_activations=True,
        groups=(PER_CHANNEL, PER_TENSOR),
        multiples=(16, 16),
    ),
    Kernel(
        name="CUTLASS FP8",
        device="GPU",
        weights=("fp8",),
        rounds_activations=True,
        groups=(PER_CHANNEL, PER_TENSOR, BLOCK_128),
        multiples=(16, 16),
    ),
    Kernel(
        name="CPU INT4",
        device="CPU",
        weights=("int4", "int4+zero"),
        multiples=(32, 32),
    ),
    Kernel(
        name="CPU INT8",
        device="CPU",
        weights=("int8",),
        rounds_activations=True,
        groups=(PER_CHANNEL, PER_TENSOR),
    ),
    Kernel(
        name="CPU FP8",
        device="CPU",
        weights=("fp8",),
        rounds_activations=True,
        groups=(PER_CHANNEL, PER_TENSOR),
    ),
)


def kernel_warnings(
    contents: Contents, shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype
) -> tuple[str, ...]:
    """Return a warning for each device and format with layers that no kernel of vLLM runs.

    Args:
        contents: What the folder holds.
        shapes: `(N, K)` of each quantized layer.
        dtype: Type of the model.
    """
    lines = []
    for device in ("GPU", "CPU"):
        unsupported: dict[str, list[str]] = defaultdict(list)
        for path, rule in contents.quantized.items():
            is_matmul = path != contents.embedding and _kind_and_group(rule) is not None
            if is_matmul and not fitting(rule, shapes[path], dtype, device):
                unsupported[rule.weight.name].append(path)
        for name, paths in unsupported.items():
            rule, shape = contents.quantized[paths[0]], shapes[paths[0]]
            lines.append(
                f"vLLM on a {device} has no kernel for {len(paths)} layers of {name}, such as "
                f"{paths[0]} {shape} in {str(dtype).removeprefix('torch.')}: "
                f"{_conditions(rule, device)}"
            )
    return tuple(lines)


def fitting(
    rule: LayerRule, shape: tuple[int, ...], dtype: torch.dtype, device: str
) -> tuple[Kernel, ...]:
    """Return the kernels of a device that run a layer `(N, K)`; none for unknown formats."""
    found = _kind_and_group(rule)
    if found is None:
        return ()
    _, group = found
    is_any_group = group >= PER_CHANNEL and group != PER_TENSOR
    return tuple(
        kernel
        for kernel in _of_kind(rule, device)
        if (group in kernel.groups if kernel.groups else is_any_group)
        and not any(size % unit for size, unit in zip(shape, kernel.multiples, strict=True))
        # vLLM serves a float32 model in half precision.
        and (dtype == torch.float32 or dtype in kernel.dtypes)
    )


def _of_kind(rule: LayerRule, device: str) -> list[Kernel]:
    """Return the kernels of a device for the formats of a rule, whatever the shape of the layer."""
    found = _kind_and_group(rule)
    return [
        kernel
        for kernel in KERNELS
        if found is not None
        and kernel.device == device
        and found[0] in kernel.weights
        and kernel.rounds_activations == (rule.input is not None)
    ]


def _kind_and_group(rule: LayerRule) -> tuple[str, int] | None:
    """Return the kind of the weights and their group size; None for MX, NVFP4 and other formats."""
    fmt = unwrapped(rule.weight)
    if (found := integer_format(fmt)) is not None:
        name = f"int{found.element.bits}" + "+zero" * isinstance(found, Affine)
    elif _has_fp8_weights(fmt):
        name, found = "fp8", fmt
    else:
        return None
    block = found.granularity.block
    if block[0] == 1:
        return name, block[1]
    return name, {(-1, -1): PER_TENSOR, (128, 128): BLOCK_128}.get(block, OTHER_BLOCK)


def _has_fp8_weights(fmt: TensorFormat) -> TypeGuard[BlockScaled]:
    """Return whether a format is FP8 with ordinary scales; blocks of 32 are those of MXFP8."""
    return (
        isinstance(fmt, BlockScaled)
        and isinstance(fmt.element, Minifloat)
        and fmt.element.bits == 8
        and fmt.granularity.block != (1, 32)
    )


def _conditions(rule: LayerRule, device: str) -> str:
    """Return the conditions of the kernels for the formats of a rule, in words."""
    kernels = _of_kind(rule, device)
    if not kernels:
        how = "rounded" if rule.input is not None else "unquantized"
        return f"there is none for these weights with {how} activations"
    return "; ".join(_needs(kernel) for kernel in kernels)


def _needs(kernel: Kernel) -> str:
    parts = [
        f"{axis} % {unit} == 0"
        for axis, unit in zip("NK", kernel.multiples, strict=True)
        if unit > 1
    ]
    if kernel.groups is not None:
        names = {PER_CHANNEL: "per-channel", PER_TENSOR: "per-tensor", BLOCK_128: "128 x 128"}
        kinds = [names[size] for size in kernel.groups if size in names]
        if sizes := [str(size) for size in kernel.groups if size not in names]:
            kinds.append(f"in groups of {', '.join(sizes)}")
        parts.append(f"scales {' or '.join(kinds)}")
    if kernel.dtypes == (torch.float16,):
        parts.append("a float16 model")
    return f"{kernel.name} needs {', '.join(parts)}"
