"""16-bit matrix products on a CPU that has no instructions for them.

A Xeon with AVX-512 but without AVX512-BF16 multiplies bfloat16 matrices at 63 GFLOP/s, float16 ones at 28 and float32 ones
at 340 (2 cores, 2048 x 576 x 1536). What its 16-bit product computes is this: products of 16-bit numbers, summed in
float32, rounded once to 16 bits at the end. The float32 product of the same numbers, rounded at the end, is the same up to
the order of the sum, and five times as fast. The weight is widened anew for each product: beside a few hundred rows that
costs little, and no second copy of the model is held.

The choice is about speed, both products are equally exact, and it is made by the processor's flags: a product that is timed would choose
otherwise from run to run, and with it the last digits of every score. `task=throughput` times both ways (`ways`).
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from harness.models.loaded import LoadedModel

NATIVE = {
    torch.bfloat16: frozenset({"avx512_bf16", "amx_bf16", "bf16"}),
    torch.float16: frozenset({"avx512_fp16", "amx_fp16", "fphp"}),
}
"""Processor flags (x86, ARM) of which any one means that products of a type are fast."""
LEAST_ROWS = 64
"""With fewer rows, widening the weight costs more than it saves."""

Products = Literal["native", "float32"]


def ways(loaded: LoadedModel) -> tuple[Products, ...]:
    """Return every way in which the linear layers of a model can be multiplied; on a GPU, or in float32, there is one."""
    if loaded.device.type == "cpu" and loaded.dtype in NATIVE:
        return "native", "float32"
    return ("native",)


def choose(loaded: LoadedModel, cpu_flags: Collection[str]) -> Products:
    """Return how the linear layers of a model are best multiplied here; `native` if the flags are unknown."""
    if "float32" not in ways(loaded) or not cpu_flags:
        return "native"
    return "native" if NATIVE[loaded.dtype] & set(cpu_flags) else "float32"


@contextmanager
def multiplied(products: Products) -> Iterator[None]:
    """Let every linear layer multiply as `choose` said, inside the block."""
    if products == "native":
        yield
    else:
        with _Float32Products():
            yield


class _Float32Products(TorchFunctionMode):
    """Takes the place of `linear` for 16-bit matrices with enough rows."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is F.linear and _is_wide(*args[:2]):
            return _linear(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _is_wide(*operands: Any) -> bool:
    """Say whether a product is one of plain 16-bit matrices with many rows."""
    if len(operands) != 2 or any(type(x) not in (Tensor, torch.nn.Parameter) for x in operands):
        return False
    x, weight = operands
    many = x.numel() >= LEAST_ROWS * x.shape[-1]
    return many and x.dtype in NATIVE and weight.dtype is x.dtype


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    exact = F.linear(x.float(), weight.float(), None if bias is None else bias.float())
    return exact.to(x.dtype)
