"""What the layouts of GPTQ and AWQ share: layers with codes in int32 words, without `weight`.

For input k in group g:

    w[n, k] = (code[k, n] - zero[g, n]) * scale[g, n]
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from harness.errors import ModelError
from harness.models.checkpoints.methods.codes import bits_of
from harness.models.checkpoints.methods.dequantized import (
    Dequantized,
    check_parts,
    errors_name_layer,
    read_tensors,
)

CODED = ("qweight", "qzeros", "scales")
"""Tensors that every layer has: codes, zero points, scales."""


def read_packed(
    folder: Path,
    dtype: torch.dtype,
    shape: PreTrainedModel,
    *,
    layout: str,
    parts: Collection[str],
    dequantize: Callable[[Mapping[str, Tensor]], Tensor],
) -> Dequantized:
    """Read a folder of packed layers.

    Args:
        folder: The checkpoint.
        dtype: Type of the weights that are returned.
        shape: The unquantized model, on the meta device.
        layout: Name of the layout, for messages.
        parts: Names of a layer's tensors inside the layer.
        dequantize: Makes the float32 weight `[N, K]` of a layer's tensors. It raises KeyError or
            ValueError where the tensors do not fit each other.

    Raises:
        ModelError: No layer is packed, or the tensors of a layer do not fit each other.
    """
    weights: dict[str, Tensor] = {}
    packed: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for key, tensor in read_tensors(folder, shape).items():
        path, _, part = key.rpartition(".")
        if part in parts:
            packed[path][part] = tensor
        else:
            weights[key] = tensor
    if not packed:
        raise ModelError(
            f"a checkpoint in the {layout} must hold packed weights (qweight), got none in "
            f"{folder}; take quantization_config out of config.json if its weights are float ones"
        )
    for path, tensors in packed.items():
        with errors_name_layer(path, f"be in the {layout}", folder):
            weights[f"{path}.weight"] = dequantize(tensors).to(dtype)
    return Dequantized(
        weights=weights,
        quantized=tuple(f"{path}.weight" for path in packed),
        packed_bits=sum(map(bits_of, packed.values())),
    )


def coded_parts(parts: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Return codes, zero points and scales of a layer.

    Raises:
        ValueError: One is missing, or codes are not in int32 words.
    """
    check_parts(parts, CODED)
    qweight, qzeros, scales = (parts[part] for part in CODED)
    if qweight.dtype != torch.int32 or qzeros.dtype != torch.int32:
        raise ValueError(f"codes in {qweight.dtype} and {qzeros.dtype}, not in int32")
    return qweight, qzeros, scales


def dequantize_groups(codes: Tensor, zeros: Tensor, scales: Tensor, group: Tensor) -> Tensor:
    """Return the float32 weight `[N, K]`.

    Args:
        codes: Integers `[K, N]`.
        zeros: Integers `[G, N]`.
        scales: `[G, N]`.
        group: Group of each input `[K]`.
    """
    # Codes and zero points are small unsigned integers: their difference is exact in float32.
    grid_KN = (codes - zeros[group]).float() * scales.float()[group]
    return grid_KN.T.contiguous()
