"""What the layers of a quantized checkpoint should multiply, read from the codes and scales that they hold in memory.

bitsandbytes Linear4bit       levels[code] * absmax of the block              inputs as they are
bitsandbytes Linear8bitLt     code * absmax of the row / 127                  inputs in INT8 but for outliers
torchao tensors               what the tensor dequantizes to                  inputs as the tensor's own quantizer rounds them
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from harness.backends import probe
from harness.backends.bitsandbytes.four_bit import library
from harness.backends.bitsandbytes.int8 import rounded_inputs, saturates
from harness.backends.torchao.packing import torchao
from harness.errors import UnsupportedRecipe
from harness.models.loaded import LoadedModel
from harness.results.record import Compute


def measure(loaded: LoadedModel) -> Compute | None:
    """Return how exactly the layers of a checkpoint multiply; None if none of them is known here.

    It is measured once, before the first call of the model, because bitsandbytes then packs its codes in another order.

    Raises:
        AuditError: A layer multiplies something else than its codes.
        UnsupportedRecipe: The processor has no exact INT8 matmul.
    """
    return loaded.cached("compute of the checkpoint", lambda: probe.measure(_kinds(loaded), loaded))


def _kinds(loaded: LoadedModel) -> Iterator[probe.Layer]:
    """Yield the first layer of every kind and shape."""
    seen = set()
    for name, module in loaded.module.named_modules():
        if not isinstance(module, nn.Linear) or (read := _reader(module)) is None:
            continue
        kind = type(module), type(module.weight), module.in_features, module.out_features
        if kind not in seen:
            seen.add(kind)
            yield probe.Layer(name, module, read(module), module.bias)


def _reader(module: nn.Linear) -> Callable[[Any], probe.Operands] | None:
    if is_traceable_wrapper_subclass(module.weight) and hasattr(module.weight, "dequantize"):
        return _of_torchao
    return READERS.get(type(module).__name__)


def _four_bits(layer: Any) -> probe.Operands:
    # Two codes a byte, the upper half first.
    state, packed = layer.weight.quant_state, layer.weight.data.view(torch.uint8).flatten()
    codes = torch.stack([packed >> 4, packed & 0xF], -1).flatten()[: state.shape.numel()]
    absmax = state.absmax
    if state.nested:  # double quantization: scales are 8-bit codes themselves
        functional = library("functional")
        absmax = functional.dequantize_blockwise(absmax, state.state2) + state.offset
    scale = absmax.flatten().float().repeat_interleave(state.blocksize)[: codes.numel()]
    values = state.code.float()[codes.int()] * scale
    return probe.Operands(values.view(state.shape), lambda x: x)


def _eight_bits(layer: Any) -> probe.Operands:
    if reason := saturates(layer.weight.device):
        raise UnsupportedRecipe(f"an LLM.int8 checkpoint cannot run here: {reason}")
    # The first call moves both from the weight into the state.
    held = layer.weight if layer.weight.CB is not None else layer.state
    weight = held.CB.float() * (held.SCB.float() / 127)[:, None]
    return probe.Operands(weight, lambda x: rounded_inputs(x, layer.state.threshold))


def _of_torchao(layer: Any) -> probe.Operands:
    weight: Any = layer.weight
    how = getattr(weight, "act_quant_kwargs", None)
    if how is None:
        return probe.Operands(weight.dequantize().float(), lambda x: x)
    quantizer = torchao("quantization.quantize_.common")._choose_quant_func_and_quantize_tensor  # noqa: SLF001 - its own rounding

    def rounded(x: Tensor) -> Tensor:
        made: Tensor = quantizer(x, how).dequantize().float()
        return made

    return probe.Operands(weight.dequantize().float(), rounded)


READERS: Mapping[str, Callable[[Any], probe.Operands]] = {
    "Linear4bit": _four_bits,
    "Linear8bitLt": _eight_bits,
}
"""By class of the layer."""
