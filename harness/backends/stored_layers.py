"""What the layers of a quantized checkpoint should multiply, read from their codes and scales.

A reader for each kind of layer that libraries make:

    layer                      weight                           activations
    bitsandbytes Linear4bit    levels[code] * absmax of block   float
    bitsandbytes Linear8bitLt  code * absmax of row / 127       INT8, outliers in float
    torchao tensors            as the tensor dequantizes        as the tensor's quantizer rounds
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from harness.backends import probe
from harness.backends.bitsandbytes.int8 import (
    INT8_ROW,
    codes_holder,
    int8_saturation,
    round_activation,
)
from harness.backends.bitsandbytes.library import bitsandbytes
from harness.backends.torchao.library import torchao
from harness.errors import UnsupportedRecipe
from harness.models.loaded import LoadedModel
from harness.results.record import Compute


def checkpoint_compute(loaded: LoadedModel) -> Compute | None:
    """Return how exactly the layers of a checkpoint multiply; None if none is of a known kind.

    It is measured once, before the first call of the model: bitsandbytes then packs its codes in
    another order.

    Raises:
        AuditError: A layer multiplies something else than its codes.
        UnsupportedRecipe: The processor has no exact INT8 matmul.
    """
    return loaded.cached(
        "compute of the checkpoint", lambda: probe.worst_compute(_kinds(loaded), loaded)
    )


def _kinds(loaded: LoadedModel) -> Iterator[probe.Layer]:
    """Yield the first layer of every kind and shape."""
    seen = set()
    for name, module in loaded.module.named_modules():
        if not isinstance(module, nn.Linear) or (read := _reader(module)) is None:
            continue
        # Kernels may differ by shape, so that each shape is a kind of its own.
        kind = type(module), type(module.weight), module.in_features, module.out_features
        if kind not in seen:
            seen.add(kind)
            yield probe.Layer(name, module, read(module), module.bias)


def _reader(module: nn.Linear) -> Callable[[Any], probe.Operands] | None:
    """Return the function that reads a layer, or None for one that holds floats."""
    # torchao keeps nn.Linear and puts a tensor of its own in the place of the weight.
    if is_traceable_wrapper_subclass(module.weight) and hasattr(module.weight, "dequantize"):
        return _torchao_operands
    return OPERANDS_OF.get(type(module).__name__)


def _four_bit_operands(layer: Any) -> probe.Operands:
    # Two codes a byte, the first in the high nibble.
    state, packed = layer.weight.quant_state, layer.weight.data.view(torch.uint8).flatten()
    codes = torch.stack([packed >> 4, packed & 0xF], -1).flatten()[: state.shape.numel()]
    absmax = state.absmax
    if state.nested:  # double quantization: scales are 8-bit codes themselves
        functional = bitsandbytes("functional")
        absmax = functional.dequantize_blockwise(absmax, state.state2) + state.offset
    # One scale for each code, the last block cut to what is there.
    scale = absmax.flatten().float().repeat_interleave(state.blocksize)[: codes.numel()]
    values = state.code.float()[codes.int()] * scale
    return probe.Operands(values.view(state.shape), lambda x: x)


def _eight_bit_operands(layer: Any) -> probe.Operands:
    if reason := int8_saturation(layer.weight.device):
        raise UnsupportedRecipe(f"an LLM.int8 checkpoint cannot run here: {reason}")
    held = codes_holder(layer)
    # SCB is the absmax of a row; a code of 127 stands for it.
    weight = held.CB.float() * (held.SCB.float() / INT8_ROW.element.max)[:, None]
    return probe.Operands(weight, lambda x: round_activation(x, layer.state.threshold))


def _torchao_operands(layer: Any) -> probe.Operands:
    weight: Any = layer.weight
    how = getattr(weight, "act_quant_kwargs", None)
    # Weight-only tensors have no rule for activations.
    if how is None:
        return probe.Operands(weight.dequantize().float(), lambda x: x)
    common = torchao("quantization.quantize_.common")
    quantizer = common._choose_quant_func_and_quantize_tensor  # noqa: SLF001 - the kernel calls it

    def rounded(x: Tensor) -> Tensor:
        made: Tensor = quantizer(x, how).dequantize().float()
        return made

    return probe.Operands(weight.dequantize().float(), rounded)


OPERANDS_OF: Mapping[str, Callable[[Any], probe.Operands]] = {
    "Linear4bit": _four_bit_operands,
    "Linear8bitLt": _eight_bit_operands,
}
"""Functions that read a layer, by its class."""
