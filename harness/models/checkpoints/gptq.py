"""Checkpoints in the GPTQ layout (Frantar et al., "GPTQ", 2022; AutoGPTQ and GPTQModel), dequantized to float.

For a linear layer of K inputs and N outputs, quantized to `bits` in groups:

    qweight [K * bits / 32, N]   int32      codes, input after input, the lowest bits first
    qzeros  [G, N * bits / 32]   int32      zero points of the groups, output after output
    scales  [G, N]               float16
    g_idx   [K]                  int32      the group of each input; k // group_size without it

    w[n, k] = (code[k, n] - zero[g, n]) * scale[g, n],    g = g_idx[k]

Version 1 of the layout (`checkpoint_format: gptq`, the common one) stores `zero - 1`, version 2 (`gptq_v2`) `zero`. Version 1
cannot store a zero point of 0: the bits of -1 are all ones, which some libraries read as 0, others as 2^bits, and -1 overflows into the
next zero point in others. Kernels
for this layout need a library and mostly a GPU; what is loaded here is the accuracy of the checkpoint, not its speed.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from harness.errors import ModelError
from harness.models.checkpoints.dequantized import Dequantized, read_packed
from harness.models.checkpoints.prequantized import Settings

PARTS = ("qweight", "qzeros", "scales", "g_idx")
BITS = (2, 3, 4, 8)
FORMATS = ("gptq", "gptq_v2")
WORD = 32
"""Bits of what codes are packed into."""


def read(
    folder: Path,
    settings: Settings,
    dtype: torch.dtype,
    shape: PreTrainedModel,
) -> Dequantized:
    """Read a folder; see `Reader`."""
    layout = settings.get("checkpoint_format") or settings.get("format") or "gptq"
    if layout not in FORMATS:
        raise ModelError(
            f"a GPTQ checkpoint must be in the layout {' or '.join(FORMATS)}, got {layout!r} in {folder}; "
            "convert it, for example with gptqmodel"
        )
    return read_packed(
        folder,
        dtype,
        shape,
        layout="GPTQ layout",
        parts=PARTS,
        dequantize=lambda parts: dequantize(parts, settings, is_first=layout == "gptq"),
    )


def dequantize(
    parts: Mapping[str, Tensor], settings: Mapping[str, Any], *, is_first: bool
) -> Tensor:
    """Return the float32 weight `[N, K]` of a layer.

    Args:
        parts: Its tensors by the last part of their names.
        settings: `bits` and `group_size`, where the tensors leave them open.
        is_first: Version 1 of the layout, whose zero points are one less.
    """
    if lacking := [part for part in PARTS[:3] if part not in parts]:
        raise ValueError(f"no {', '.join(lacking)}")
    qweight, qzeros, scales = parts["qweight"], parts["qzeros"], parts["scales"]
    if qweight.dtype != torch.int32 or qzeros.dtype != torch.int32:
        raise ValueError(f"codes in {qweight.dtype} and {qzeros.dtype}, not in int32")
    group, bits = _groups(parts, settings)
    # Codes are packed along the inputs, zero points along the outputs; padding fills the last word of the latter.
    codes_KN = unpack(qweight.T, bits).T
    zeros_GN = unpack(qzeros, bits)[:, : scales.shape[1]]
    if is_first:
        if (zeros_GN == 2**bits - 1).any():
            raise ValueError("a zero point of 0, which version 1 of the layout cannot tell")
        zeros_GN = zeros_GN + 1
    if zeros_GN.shape != scales.shape or codes_KN.shape != (len(group), scales.shape[1]):
        shapes = {part: tuple(tensor.shape) for part, tensor in parts.items()}
        raise ValueError(f"shapes that do not fit for {bits} bits: {shapes}")
    if not 0 <= int(group.min()) <= int(group.max()) < len(scales):
        raise ValueError(f"groups up to {int(group.max())} where there are {len(scales)} scales")
    _check_settings(settings, group, zeros_GN, bits)
    grid_KN = (codes_KN - zeros_GN[group]).float() * scales.float()[group]
    return grid_KN.T.contiguous()


def check_groups(group: Tensor, num_inputs: int, size: int) -> None:
    """Raise ValueError if the groups of inputs `[K]` are not K / size ones of equal size, but for the last."""
    expected = torch.arange(num_inputs, device=group.device) // size
    if group.shape != expected.shape or not group.long().sort().values.equal(expected):
        raise ValueError(f"a g_idx that is not groups of {size} for {num_inputs} inputs")


def _check_settings(settings: Mapping[str, Any], group: Tensor, zeros: Tensor, bits: int) -> None:
    """Raise ValueError where the tensors are not what the settings say; `dynamic` may say something else of each layer."""
    if settings.get("dynamic"):
        return
    if int(settings.get("bits") or bits) != bits:
        raise ValueError(f"codes of {bits} bits where config.json says {settings['bits']}")
    if size := int(settings.get("group_size") or 0):
        check_groups(group, len(group), size if size > 0 else len(group))
    # Kernels leave g_idx out where desc_act is false.
    if settings.get("desc_act") is False and (group.diff() < 0).any():
        raise ValueError(
            "a g_idx in the order of activations where config.json says desc_act false"
        )
    # Kernels for symmetric codes leave qzeros out.
    if settings.get("sym") is True and (zeros != 2 ** (bits - 1)).any():
        raise ValueError(
            f"zero points that are not {2 ** (bits - 1)} where config.json says sym true (in the other version of the layout, "
            "checkpoint_format, each is one more or less)"
        )


def _groups(parts: Mapping[str, Tensor], settings: Mapping[str, Any]) -> tuple[Tensor, int]:
    """Return the group of each input `[K]`, and the bits of a code."""
    words = len(parts["qweight"])
    if "g_idx" in parts:
        group = parts["g_idx"].long()
        # Layers of one checkpoint may differ in bits; their sizes tell.
        bits, rest = divmod(words * WORD, len(group))
    else:
        bits, rest = int(settings["bits"]), 0
        size = int(settings["group_size"])
        inputs = torch.arange(words * WORD // bits)
        group = inputs // size if size > 0 else torch.zeros_like(inputs)
    if rest or bits not in BITS:
        raise ValueError(f"{words * WORD / len(group):g} bits a code, not one of {BITS}")
    return group, bits


def unpack(words: Tensor, bits: int) -> Tensor:
    """Return the numbers that int32 words `[R, W]` hold along their rows, one after another, the lowest bits first, int64."""
    # int64 without the sign: shifts to the right must bring in zeros.
    wide = words.long() & (2**WORD - 1)
    # A number may begin in one word and end in the next.
    wide = torch.cat([wide, wide.new_zeros(len(wide), 1)], 1)
    start = torch.arange(words.shape[1] * WORD // bits, device=words.device) * bits
    index, shift = start // WORD, start % WORD
    low, high = wide[:, index] >> shift, wide[:, index + 1] << (WORD - shift)
    numbers: Tensor = (low | high) & (2**bits - 1)
    return numbers
