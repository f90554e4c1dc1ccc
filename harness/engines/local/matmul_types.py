"""Observe in which types a running model multiplies; its configuration may say otherwise.

A dispatch mode of torch sees every operator, also inside tensor subclasses. The type of a matmul is
the type of its first operand: `aten._int_mm` multiplies INT8 by INT8, `aten.linear` with a weight
that was dequantized before multiplies floats. An operator of another library may convert its
operands inside; it counts as the narrowest type among them.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from harness.engines.timed import Matmuls

MATMUL = re.compile(r"(^|_)(mm|addmm|linear|matmul|gemm|gemv)(_|$)|qlinear|\dmm")
"""Names of operators that compute a matmul."""


class Spy(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Context manager that counts the operations of matmuls with weights, by type and kernel."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._work: Counter[tuple[str, str]] = Counter()

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        schema = getattr(func, "_schema", None)
        space, _, name = schema.name.partition("::") if schema else ("", "", "")
        if MATMUL.search(name) and isinstance(result, Tensor):
            matrices = [x for x in args if isinstance(x, Tensor) and x.dim() >= 2]
            if matrices and not _both_batched(matrices):
                dtype = _multiplied_in(matrices, of_torch=space == "aten")
                depth = matrices[0].shape[-1]
                self._work[dtype, f"{space}.{name}"] += 2 * result.numel() * depth
        return result

    def matmuls(self) -> Matmuls:
        """Return the matmuls counted so far."""
        work: Counter[str] = Counter()
        for (dtype, _), operations in self._work.items():
            work[dtype] += operations
        kernels = dict.fromkeys(name for (_, name), _ in self._work.most_common())
        return Matmuls(work=dict(work), kernels=tuple(kernels))


def _both_batched(matrices: Sequence[Tensor]) -> bool:
    """Say whether both operands are activations, as in attention."""
    return len(matrices) > 1 and all(x.dim() > 2 for x in matrices[:2])


def _multiplied_in(matrices: Sequence[Tensor], *, of_torch: bool) -> str:
    """Return the type that an operator multiplies in; see the module docstring."""
    types = [x.dtype for x in matrices]
    if of_torch:  # UINT8 codes are multiplied as fast as INT8 ones
        return "int8" if types[0] is torch.uint8 else _name(types[0])
    known = [dtype for dtype in types if _name(dtype)]
    return _name(min(known, key=lambda dtype: dtype.itemsize, default=types[0]))


def _name(dtype: torch.dtype) -> str:
    """Return the name of a type that hardware multiplies in, or nothing for packed codes."""
    if dtype.is_floating_point and dtype.itemsize == 1:  # all FP8 types run at one speed
        return "float8_e4m3fn"
    if dtype.is_floating_point or dtype is torch.int8:
        return str(dtype).removeprefix("torch.")
    return ""
