"""Load a quantized checkpoint with transformers and the library that wrote it."""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from harness.models.architecture import auto_class, read_config
from harness.models.checkpoints.loading_report import check_all_used, check_complete
from harness.models.checkpoints.methods import bitsandbytes
from harness.models.checkpoints.methods.schemes import (
    batch_warnings,
    rounded_inputs,
    scheme,
    unused_bits,
)
from harness.models.checkpoints.prequantized import Prequantized
from harness.models.checkpoints.settings import Settings
from harness.models.checkpoints.stored_bytes import stored_bytes
from harness.models.checkpoints.stored_tensors import float_weights, stored_tensors


def load_by_library(
    folder: Path,
    settings: Settings,
    shape: PreTrainedModel,
    dtype: torch.dtype,
    device: torch.device,
    **options: Any,
) -> tuple[PreTrainedModel, Prequantized]:
    """Return model and facts of a folder.

    Args:
        folder: The checkpoint.
        settings: Its quantization settings.
        shape: The unquantized model, on the meta device.
        dtype: Type of the weights that are not quantized.
        device: Where the model is loaded.
        options: Those of `read_config`.
    """
    missing = bitsandbytes.missing_statistics(stored_tensors(folder))
    check_complete({"missing_keys": missing}, folder)
    config = read_config(folder, options.pop("attention"), **options)
    found: Any = auto_class(config).from_pretrained(
        folder,
        config=config,
        dtype=dtype,
        use_safetensors=True,
        output_loading_info=True,
        device_map={"": device},
        **options,
    )
    module: PreTrainedModel = found[0]
    loading = found[1]
    check_complete(loading, folder)
    check_all_used(loading["unexpected_keys"], folder)
    bitsandbytes.restore_block_scales(module)
    if of_bitsandbytes := bitsandbytes.has_layers(module):
        bitsandbytes.settle_matmuls(module, dtype)
    # Beside codes of bitsandbytes, transformers leaves float weights in the type of the files.
    if of_bitsandbytes or getattr(module, "hf_quantizer", None) is None:
        _cast_floats(module, dtype)
    # No `module.to(device)`: weights of some libraries cannot move. `device_map` has placed them.
    module.train(mode=False)
    module.requires_grad_(False)
    return module, _library_facts(folder, settings, shape, dtype, module)


def _cast_floats(module: PreTrainedModel, dtype: torch.dtype) -> None:
    """Cast float weights to a type, except where the architecture keeps them in float32."""
    kept = {
        *(module._keep_in_fp32_modules or ()),  # noqa: SLF001 - no public name
        *(module._keep_in_fp32_modules_strict or ()),  # noqa: SLF001
    }
    for name, parameter in module.named_parameters():
        # Codes are in a subclass of Parameter, or are integers.
        is_float = type(parameter) is nn.Parameter and parameter.is_floating_point()
        if is_float and kept.isdisjoint(name.split(".")):
            parameter.data = parameter.data.to(dtype)


def _library_facts(
    folder: Path,
    settings: Settings,
    shape: PreTrainedModel,
    dtype: torch.dtype,
    module: PreTrainedModel,
) -> Prequantized:
    tensors = stored_tensors(folder)
    floats = float_weights(tensors)
    # The files may hold a tied weight twice; count it once.
    names = {name for name, _ in shape.named_parameters(remove_duplicate=False)}
    tied = names - {name for name, _ in shape.named_parameters()}
    count, stored = count_parameters(shape), stored_bytes(module)
    num_quantized = count - sum(t.numel for name, t in floats.items() if name not in tied)
    file_bytes = sum(tensor.nbytes for tensor in tensors.values())
    packed_bytes = file_bytes - sum(tensor.nbytes for tensor in floats.values())
    return Prequantized(
        method=str(settings.get("quant_method")),
        scheme=scheme(settings),
        kind="real" if stored < count * dtype.itemsize else "fake-quant",
        num_parameters=count,
        num_quantized=num_quantized,
        packed_bits=8 * packed_bytes - unused_bits(settings) * num_quantized,
        file_bytes=file_bytes,
        stored_bytes=stored,
        inputs=rounded_inputs(settings),
        warnings=batch_warnings(settings),
    )


def count_parameters(shape: PreTrainedModel) -> int:
    """Return the number of parameters of a model; a shared parameter counts once."""
    return sum(parameter.numel() for parameter in shape.parameters())
