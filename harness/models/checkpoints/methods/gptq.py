"""Read checkpoints in the GPTQ layout (Frantar et al., "GPTQ", 2022; AutoGPTQ and GPTQModel).

For a linear layer of K inputs and N outputs, quantized to `bits` in G groups of inputs:

    qweight [K * bits / 32, N]   int32      codes, input after input, the lowest bits first
    qzeros  [G, N * bits / 32]   int32      zero points, output after output
    scales  [G, N]               float16
    g_idx   [K]                  int32      group of each input; k // group_size without it

    w[n, k] = (code[k, n] - zero[g, n]) * scale[g, n],    g = g_idx[k]

Version 1 of the layout (`checkpoint_format: gptq`, the common one) stores `zero - 1`; version 2
(`gptq_v2`) stores `zero`. Version 1 cannot store a zero point of 0. The bits of -1 are all ones,
which some libraries read as 0 and others as 2^bits; in a third kind, -1 overflows into the next
zero point.

The kernels of this layout need a library, and most need a GPU. This reader shows the accuracy of a
checkpoint, not its speed.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from harness.errors import ModelError
from harness.models.checkpoints.methods.codes import WORD_BITS, check_groups, unpack_words
from harness.models.checkpoints.methods.dequantized import Dequantized
from harness.models.checkpoints.methods.packed_layers import (
    CODED,
    coded_parts,
    dequantize_groups,
    read_packed,
)
from harness.models.checkpoints.settings import Settings

GPTQ_BITS = (2, 3, 4, 8)
VERSIONS = ("gptq", "gptq_v2")


def read_gptq(
    folder: Path, settings: Settings, dtype: torch.dtype, shape: PreTrainedModel
) -> Dequantized:
    """Read a folder; see `Reader`."""
    version = settings.get("checkpoint_format") or settings.get("format") or VERSIONS[0]
    if version not in VERSIONS:
        raise ModelError(
            f"a GPTQ checkpoint must be in the layout {' or '.join(VERSIONS)}, got {version!r} in "
            f"{folder}; convert it, for example with gptqmodel"
        )
    return read_packed(
        folder,
        dtype,
        shape,
        layout="GPTQ layout",
        parts=(*CODED, "g_idx"),
        dequantize=lambda parts: dequantize_gptq(parts, settings, is_first=version == "gptq"),
    )


def dequantize_gptq(
    parts: Mapping[str, Tensor], settings: Mapping[str, Any], *, is_first: bool
) -> Tensor:
    """Return the float32 weight `[N, K]` of a layer.

    Args:
        parts: Its tensors, by the names in the module docstring.
        settings: Those of config.json. `bits` and `group_size` count where there is no `g_idx`.
        is_first: The zero points are those of version 1, one less than the real ones.

    Raises:
        KeyError: Neither the tensors nor the settings say bits and group size.
        ValueError: The tensors do not fit each other or the settings.
    """
    qweight, qzeros, scales = coded_parts(parts)
    group, bits = _group_of_inputs(parts, settings)
    # Codes are packed along the inputs, zero points along the outputs. Cut the padding of the last
    # word of zero points off.
    codes_KN = unpack_words(qweight.T, bits).T
    zeros_GN = unpack_words(qzeros, bits)[:, : scales.shape[1]]
    if is_first:
        if (zeros_GN == 2**bits - 1).any():
            raise ValueError("a zero point of 0, which version 1 of the layout cannot store")
        zeros_GN = zeros_GN + 1
    if zeros_GN.shape != scales.shape or codes_KN.shape != (len(group), scales.shape[1]):
        shapes = {part: tuple(tensor.shape) for part, tensor in parts.items()}
        raise ValueError(f"shapes that do not fit for {bits} bits: {shapes}")
    if not 0 <= int(group.min()) <= int(group.max()) < len(scales):
        raise ValueError(f"groups up to {int(group.max())} where there are {len(scales)} scales")
    _check_against_settings(settings, group, zeros_GN, bits)
    return dequantize_groups(codes_KN, zeros_GN, scales, group)


def _group_of_inputs(
    parts: Mapping[str, Tensor], settings: Mapping[str, Any]
) -> tuple[Tensor, int]:
    """Return the group of each input `[K]`, and the bits of a code."""
    stored_bits = len(parts["qweight"]) * WORD_BITS
    if "g_idx" in parts:
        group = parts["g_idx"].long()
        # The shapes say the bits: layers of one checkpoint may differ in them.
        bits, rest = divmod(stored_bits, len(group))
    else:
        bits, rest = int(settings["bits"]), 0
        size = int(settings["group_size"])
        inputs = torch.arange(stored_bits // bits)
        group = inputs // size if size > 0 else torch.zeros_like(inputs)
    if rest or bits not in GPTQ_BITS:
        raise ValueError(f"{stored_bits / len(group):g} bits a code, not one of {GPTQ_BITS}")
    return group, bits


def _check_against_settings(
    settings: Mapping[str, Any], group: Tensor, zeros: Tensor, bits: int
) -> None:
    """Raise ValueError for tensors that are not what the settings say."""
    # `dynamic` may say something else of each layer.
    if settings.get("dynamic"):
        return
    if int(settings.get("bits") or bits) != bits:
        raise ValueError(f"codes of {bits} bits where config.json says {settings['bits']}")
    if size := int(settings.get("group_size") or 0):
        check_groups(group, len(group), size if size > 0 else len(group))
    # Kernels ignore g_idx where desc_act is false.
    if settings.get("desc_act") is False and (group.diff() < 0).any():
        raise ValueError(
            "a g_idx in the order of activations where config.json says desc_act false"
        )
    # Kernels for symmetric codes ignore qzeros.
    if settings.get("sym") is True and (zeros != 2 ** (bits - 1)).any():
        raise ValueError(
            f"zero points that are not {2 ** (bits - 1)} where config.json says sym true (in the "
            "other version of the layout, checkpoint_format, each is one more or less)"
        )
