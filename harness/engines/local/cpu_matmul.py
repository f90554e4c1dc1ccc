"""Float32 matmuls for 16-bit models on a CPU without 16-bit instructions.

Speed, for 2048 x 576 x 1536 on two cores of a Xeon with AVX-512 but without AVX512-BF16:

    bfloat16    63 GFLOP/s
    float16     28 GFLOP/s
    float32    340 GFLOP/s

Exactness. A 16-bit matmul multiplies 16-bit numbers, sums in float32 and rounds once to 16 bits. A
float32 matmul of the same numbers, rounded once, is the same up to the order of the sum. Neither
is more exact than the other.

Memory. The weight is widened again for each matmul. Beside a few hundred rows of activations that
costs little, and no second copy of the model is kept.

The processor's flags choose, not a timing: a timing would choose differently from run to run and
move the last digits of every score. `task=throughput` times both ways (`ways`).
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from harness.models.loaded import LoadedModel

NATIVE_FLAGS = {
    torch.bfloat16: frozenset({"avx512_bf16", "amx_bf16", "bf16"}),
    torch.float16: frozenset({"avx512_fp16", "amx_fp16", "fphp"}),
}
"""Processor flags (x86, ARM). Any one of them means fast matmuls of that dtype."""
LEAST_ROWS = 64
"""Rows of activations below which widening the weight costs more time than it saves."""

MatmulWay = Literal["native", "float32"]


def ways(loaded: LoadedModel) -> tuple[MatmulWay, ...]:
    """Return every way in which a model's linear layers can multiply here.

    16-bit models on a CPU have two ways, all others one.
    """
    if loaded.device.type == "cpu" and loaded.dtype in NATIVE_FLAGS:
        return "native", "float32"
    return ("native",)


def choose_way(loaded: LoadedModel, cpu_flags: Collection[str]) -> MatmulWay:
    """Return the faster way for a model on a processor; `native` if its flags are unknown."""
    if "float32" not in ways(loaded) or not cpu_flags:
        return "native"
    return "native" if NATIVE_FLAGS[loaded.dtype] & set(cpu_flags) else "float32"


@contextmanager
def multiplied(way: MatmulWay) -> Iterator[None]:
    """Context manager in which every linear layer multiplies in one way."""
    if way == "native":
        yield
    else:
        with _Float32Matmul():
            yield


class _Float32Matmul(TorchFunctionMode):
    """Replaces `F.linear` of 16-bit matrices with enough rows, in compiled graphs too."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        # `torch.compile` traces through this mode, so compiled graphs get the float32 matmul too.
        if func is F.linear and _widens(*args[:2]):
            return _linear(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _widens(*operands: Any) -> bool:
    """Say whether both operands are plain 16-bit matrices, and the activation has many rows."""
    # Tensor subclasses (codes of a library) multiply in their own way.
    if len(operands) != 2 or any(type(x) not in (Tensor, torch.nn.Parameter) for x in operands):
        return False
    x, weight = operands
    # Rows are all leading axes together: `[B, S, K]` has B * S.
    many = x.numel() >= LEAST_ROWS * x.shape[-1]
    return many and x.dtype in NATIVE_FLAGS and weight.dtype is x.dtype


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return `x W^T + b`: operands widened to float32, the result rounded once."""
    # 16-bit numbers are float32 numbers, so widening them is exact.
    exact = F.linear(x.float(), weight.float(), None if bias is None else bias.float())
    return exact.to(x.dtype)
