"""Feed each real layer the activations recorded from its fake-quantized counterpart.

    difference = |y_real - y_fake| / |y_fake|        Frobenius norms over all tokens of a part

End to end, a model with rounded activations is chaotic: sums that differ in the last place change
a code somewhere, and some layers later all rounding errors are others, of the same size. A single
layer shows whether its kernel is right.

Calls with many rows (the prompt) and with one row (decoding) are two parts, because many kernels
take another path for one row.
"""

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from harness.engines.local import kept_logits
from harness.engines.paired import Calls, LayerDifference
from harness.engines.requests import Score
from harness.errors import InvalidResult
from harness.models.loaded import LoadedModel
from harness.models.targets.weight_layout import is_linear

if TYPE_CHECKING:
    from harness.engines.local.engine import LocalEngine


class Call(NamedTuple):
    """One call of a layer, in main memory."""

    activation: Tensor
    """The activation `[..., K]` before the recipe rounds it."""
    output: Tensor
    """The output `[..., N]`."""


def recorded(engine: "LocalEngine", request: Score, decode: int) -> Calls:
    """Return every call of every quantized linear layer during a request.

    Layers that stay unquantized are the same in both forms and are not recorded.
    """
    loaded = engine.loaded
    calls: dict[str, list[Call]] = {}
    quantized = {id(swap.owner) for swap in loaded.swaps}
    with ExitStack() as hooks:
        for name, module in loaded.module.named_modules():
            if is_linear(module) and id(module) in quantized:
                hooks.enter_context(_recording(module, calls.setdefault(name, [])))
        with torch.inference_mode():
            # Outside `split`: the LM head runs as the recipe made it, not in float32.
            kept_logits.forward(loaded, request, decode)
    return calls


@contextmanager
def _recording(module: nn.Module, calls: list[Call]) -> Iterator[None]:
    activations: list[Tensor] = []

    def before(_: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> None:
        activations.append((args[0] if args else kwargs["input"]).to("cpu", copy=True))

    def after(_: nn.Module, _args: tuple[Tensor, ...], output: Tensor) -> None:
        calls.append(Call(activations.pop(), output.to("cpu", copy=True)))

    # `prepend`: a hook of the recipe that rounds the activation must run after `before`.
    handles = (
        module.register_forward_pre_hook(before, prepend=True, with_kwargs=True),
        module.register_forward_hook(after),
    )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.inference_mode()
def layer_differences(loaded: LoadedModel, calls: Calls) -> list[LayerDifference]:
    """Return the differences of every layer in the model's order, `prompt` before `decode`.

    Raises:
        InvalidResult: An output is not finite.
    """
    found = []
    for name, of_layer in calls.items():
        layer = loaded.module.get_submodule(name)
        parts: tuple[tuple[Literal["prompt", "decode"], bool], ...]
        parts = ("prompt", False), ("decode", True)
        for part, is_single in parts:
            chosen = [call for call in of_layer if _is_one_row(call.activation) is is_single]
            if chosen:
                value = _difference(layer, chosen, loaded)
                found.append(LayerDifference(name, part, value))
    if bad := [d.layer for d in found if not math.isfinite(d.value)]:
        raise InvalidResult(
            f"every output of a layer must be finite, got NaN or infinity from {bad[0]} and "
            f"{len(bad)} layers in all; a kernel of the backend is wrong"
        )
    return found


def _is_one_row(activation: Tensor) -> bool:
    return activation.numel() == activation.shape[-1]


def _difference(layer: nn.Module, calls: list[Call], loaded: LoadedModel) -> float:
    error = norm = 0.0
    for activation, fake in calls:
        real = layer(activation.to(loaded.device)).cpu()
        error = math.hypot(error, float((real.double() - fake.double()).norm()))
        norm = math.hypot(norm, float(fake.double().norm()))
    return error / norm if norm else error
