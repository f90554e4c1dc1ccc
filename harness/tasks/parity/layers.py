"""Real beside fake, layer by layer: what is in the place of each quantized linear layer gets the very inputs that the fake one got.

    difference = |y_real - y_fake| / |y_fake|        Frobenius norms over all tokens of a part

End to end, rounded activations are chaotic: sums that differ in the last place move a code somewhere, and after some layers the
rounding errors are other ones of the same size. A layer by itself shows whether its kernel is right.

Calls with many rows (the prompt) and with one (decoding) are two parts: many kernels take another path for one row.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

from torch import Tensor, nn

from harness.errors import InvalidResult
from harness.models.loaded import LoadedModel
from harness.models.targets.weight_layout import is_linear


class Call(NamedTuple):
    """What went into a layer, before anything rounded it, and what came out; in main memory."""

    given: Tensor
    made: Tensor


class LayerDifference(NamedTuple):
    """How far the real layer is from the fake one."""

    layer: str
    part: str
    """`prompt` or `decode`."""
    value: float


Calls = Mapping[str, list[Call]]
"""By path of the layer."""


@contextmanager
def recorded(loaded: LoadedModel) -> Iterator[Calls]:
    """Record every call of every quantized linear layer inside the block; one that stays in float is the same in both models."""
    calls: dict[str, list[Call]] = {}
    quantized = {id(swap.owner) for swap in loaded.swaps}
    with ExitStack() as hooks:
        for name, module in loaded.module.named_modules():
            if is_linear(module) and id(module) in quantized:
                hooks.enter_context(_listening(module, calls.setdefault(name, [])))
        yield calls


@contextmanager
def _listening(module: nn.Module, calls: list[Call]) -> Iterator[None]:
    given: list[Tensor] = []

    def before(_: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> None:
        given.append((args[0] if args else kwargs["input"]).to("cpu", copy=True))

    def after(_: nn.Module, _args: tuple[Tensor, ...], made: Tensor) -> None:
        calls.append(Call(given.pop(), made.to("cpu", copy=True)))

    # In front of the hooks that round.
    handles = (
        module.register_forward_pre_hook(before, prepend=True, with_kwargs=True),
        module.register_forward_hook(after),
    )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def layer_differences(loaded: LoadedModel, calls: Calls) -> list[LayerDifference]:
    """Return the difference of every layer, in the model's order, the prompt's before the decoded tokens'.

    Raises:
        InvalidResult: An output is not a number.
    """
    found = []
    for name, of_layer in calls.items():
        layer = loaded.module.get_submodule(name)
        for part, is_single in (("prompt", False), ("decode", True)):
            chosen = [call for call in of_layer if (_rows(call.given) == 1) is is_single]
            if chosen:
                value = _difference(layer, chosen, loaded)
                found.append(LayerDifference(name, part, value))
    if bad := [d.layer for d in found if not math.isfinite(d.value)]:
        raise InvalidResult(
            f"every output of a layer must be finite, got NaN or infinity from {bad[0]} and {len(bad)} layers in all; "
            "a kernel of the backend is wrong"
        )
    return found


def _rows(x: Tensor) -> int:
    return x.numel() // x.shape[-1]


def _difference(layer: nn.Module, calls: list[Call], loaded: LoadedModel) -> float:
    error = norm = 0.0
    for given, fake in calls:
        real = layer(given.to(loaded.device)).cpu()
        error = math.hypot(error, float((real.double() - fake.double()).norm()))
        norm = math.hypot(norm, float(fake.double().norm()))
    return error / norm if norm else error
