"""Which matmul kernels of vLLM run which layer, and a warning for layers that none of them runs.

The conditions in `KERNELS` are those in the sources of vLLM 0.11.0 (GPU) and 0.32.0 (CPU); those of the CPU were tried as well
(docs/checkpoints.md). vLLM joins q, k and v, and gate and up: K stays, and N is a sum of multiples, so a layer that fits alone
also fits when it is joined.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from harness.backends.layer import LayerRule
from harness.export.layouts.layout import Contents, integer_format, unwrapped
from harness.formats.minifloat import Minifloat
from harness.quant.schemes.affine import Affine
from harness.quant.schemes.block_scaled import BlockScaled

ROW, TENSOR, BLOCK, OTHER = -1, 0, -128, -2
"""Values of a group size for scales that are not of groups: of rows, the whole tensor, 128 x 128 blocks, blocks of another shape."""
HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True, kw_only=True, slots=True)
class Kernel:
    """A kernel and the layers that it runs."""

    name: str
    device: str
    weights: tuple[str, ...]
    """`int4`, `int8` or `fp8`; with `+zero` for zero points."""
    are_inputs_rounded: bool = False
    groups: tuple[int, ...] | None = None
    """Group sizes, or one of the names above; None: groups of any size, and rows."""
    multiples: tuple[int, int] = (1, 1)
    """N (outputs) and K (inputs) must be multiples of these."""
    dtypes: tuple[torch.dtype, ...] = HALF
    """Types of the model."""


KERNELS = (
    Kernel(
        name="Marlin",
        device="GPU",
        weights=("int4", "int8", "int4+zero"),
        groups=(ROW, 32, 64, 128),
        multiples=(64, 128),
    ),
    Kernel(
        name="Machete (Hopper)",
        device="GPU",
        weights=("int4", "int8", "int4+zero", "int8+zero"),
        groups=(ROW, 64, 128),
        multiples=(128, 64),
    ),
    Kernel(
        name="AllSpark (Ampere)", device="GPU", weights=("int8",), groups=(ROW,), multiples=(16, 16)
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
        name="FP8 Marlin", device="GPU", weights=("fp8",), groups=(ROW, TENSOR), multiples=(64, 128)
    ),
    Kernel(
        name="CUTLASS INT8",
        device="GPU",
        weights=("int8",),
        are_inputs_rounded=True,
        groups=(ROW, TENSOR),
        multiples=(16, 16),
    ),
    Kernel(
        name="CUTLASS FP8",
        device="GPU",
        weights=("fp8",),
        are_inputs_rounded=True,
        groups=(ROW, TENSOR, BLOCK),
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
        are_inputs_rounded=True,
        groups=(ROW, TENSOR),
    ),
    Kernel(
        name="CPU FP8",
        device="CPU",
        weights=("fp8",),
        are_inputs_rounded=True,
        groups=(ROW, TENSOR),
    ),
)


def warnings(
    contents: Contents, shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype
) -> tuple[str, ...]:
    """Return a line for each device and format with layers that no kernel of vLLM runs there.

    Args:
        contents: What the folder holds.
        shapes: `(N, K)` of each quantized layer.
        dtype: Type of the model.
    """
    lines = []
    for device in ("GPU", "CPU"):
        lacking: dict[str, list[str]] = defaultdict(list)
        for path, rule in contents.quantized.items():
            is_matmul = path != contents.embedding and _facts(rule) is not None
            if is_matmul and not fitting(rule, shapes[path], dtype, device):
                lacking[rule.weight.name].append(path)
        for name, paths in lacking.items():
            rule, shape = contents.quantized[paths[0]], shapes[paths[0]]
            lines.append(
                f"vLLM on a {device} has no kernel for {len(paths)} layers of {name}, such as {paths[0]} {shape} in "
                f"{str(dtype).removeprefix('torch.')}: {_conditions(rule, device)}"
            )
    return tuple(lines)


def fitting(
    rule: LayerRule, shape: tuple[int, ...], dtype: torch.dtype, device: str
) -> tuple[Kernel, ...]:
    """Return the kernels of a device that take a layer `(N, K)`; none for formats that are not in the table."""
    facts = _facts(rule)
    if facts is None:
        return ()
    return tuple(
        kernel
        for kernel in _of_kind(rule, device)
        if (facts[1] in kernel.groups if kernel.groups else facts[1] >= ROW and facts[1] != TENSOR)
        and not any(size % unit for size, unit in zip(shape, kernel.multiples, strict=True))
        # vLLM serves a float32 model in half precision.
        and (dtype == torch.float32 or dtype in kernel.dtypes)
    )


def _of_kind(rule: LayerRule, device: str) -> list[Kernel]:
    """Return the kernels for the weights of a rule, whatever their shape."""
    facts, is_rounded = _facts(rule), rule.input is not None
    return [
        kernel
        for kernel in KERNELS
        if facts is not None
        and kernel.device == device
        and facts[0] in kernel.weights
        and kernel.are_inputs_rounded == is_rounded
    ]


def _facts(rule: LayerRule) -> tuple[str, int] | None:
    """Return the kind of the weights and their group size; None for formats that are not in the table (MX, NVFP4, INT4 inputs)."""
    fmt = unwrapped(rule.weight)
    if (found := integer_format(fmt)) is not None:
        name = f"int{found.element.bits}" + "+zero" * isinstance(found, Affine)
    elif (
        isinstance(fmt, BlockScaled)
        and isinstance(fmt.element, Minifloat)
        and fmt.element.bits == 8
        and fmt.granularity.block != (1, 32)
    ):
        name, found = "fp8", fmt
    else:
        return None
    block = found.granularity.block
    if block[0] == 1:
        return name, block[1]
    return name, {(-1, -1): TENSOR, (128, 128): BLOCK}.get(block, OTHER)


def _conditions(rule: LayerRule, device: str) -> str:
    """Describe the conditions of the kernels for such weights."""
    kernels = _of_kind(rule, device)
    if not kernels:
        inputs = "rounded inputs" if rule.input is not None else "inputs in float"
        return f"there is none for these weights with {inputs}"
    return "; ".join(_needs(kernel) for kernel in kernels)


def _needs(kernel: Kernel) -> str:
    parts = [
        f"{axis} % {unit} == 0"
        for axis, unit in zip("NK", kernel.multiples, strict=True)
        if unit > 1
    ]
    if kernel.groups is not None:
        names = {ROW: "rows", TENSOR: "tensors", BLOCK: "128 x 128"}
        sizes = [names.get(size, str(size)) for size in kernel.groups]
        parts.append(f"scales of {' or '.join(sizes)}")
    if kernel.dtypes == (torch.float16,):
        parts.append("a float16 model")
    return f"{kernel.name} needs {', '.join(parts)}"
