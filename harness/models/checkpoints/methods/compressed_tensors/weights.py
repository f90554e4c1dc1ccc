"""Dequantize the weight of a layer in a layout of compressed-tensors, in float32.

For a linear layer of K inputs and N outputs:

    weight_packed        int32 [N, ceil(K b / 32)]   b-bit codes + 2^(b-1), lowest bits first; or
                         uint8 [N, K b / 8]          E2M1 (b = 4, two a byte) or E2M3 (b = 6, four
                                                     in three bytes), lowest bits first
    weight               int8 or float8_e4m3fn       one code an element
    weight_scale         float, or E8M0 bytes (MX)   [1] per-tensor, [N, 1] per-channel, [N, G]
                                                     group-wise, [ceil(N / n), ceil(K / k)] blocks
    weight_zero_point    in the shape of the scale   beside packed codes packed along N:
                                                     int32 [ceil(N b / 32), G]
    weight_global_scale  [1]                         NVFP4: scales are in units of 1 / global scale
    weight_g_idx         [K]                         group of each input, where GPTQ reorders them
    weight_shape         [2]                         N and K

    w = (code - zero) * scale / global scale

The library computes in the type of the scales, or in bfloat16 for NVFP4 and MX. Here, the first
rounding is the cast to the type of the model.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from harness.models.activations.activation_format import FLOAT_ELEMENTS
from harness.models.checkpoints.methods.codes import (
    BYTE_BITS,
    WORD_BITS,
    bits_of,
    check_groups,
    decode_scales,
    over_blocks,
    unpack_words,
)
from harness.models.checkpoints.methods.dequantized import check_parts

WEIGHT_PARTS = (
    "weight_packed",
    "weight",
    "weight_scale",
    "weight_zero_point",
    "weight_global_scale",
    "weight_g_idx",
    "weight_shape",
)
"""Tensors that a layer may have for its weight."""


def dequantize_layer(parts: Mapping[str, Tensor], args: Any) -> Tensor:
    """Return the float32 weight `[N, K]` of a layer.

    Args:
        parts: Its tensors, by the names in the module docstring.
        args: `QuantizationArgs` of the library, for weights.

    Raises:
        ValueError: The tensors are not what `args` say.
    """
    codes = _codes(parts, args)
    scale = _scales_of(parts, args, len(codes))
    group = _input_groups(parts, args, codes.shape[1])
    # A zero point counts in codes, not in units of the scale: subtract it first.
    zero = _zero_point(parts, args, scale)
    if zero is not None:
        codes = codes - _over_weights(zero, codes, args, group)
    return codes * _over_weights(scale, codes, args, group)


def coded_bits(parts: Mapping[str, Tensor], args: Any) -> int:
    """Return the size of codes, at the width of their format, and of all beside them [bit]."""
    # A byte may hold a code of fewer bits: INT4 weights with INT8 activations are stored as int8.
    unused = parts["weight"].numel() * (BYTE_BITS - args.num_bits) if "weight" in parts else 0
    return bits_of(parts) - unused


def _codes(parts: Mapping[str, Tensor], args: Any) -> Tensor:
    """Return integers, or the values of small floats, as float32 `[N, K]`."""
    if "weight" in parts:
        weight = parts["weight"]
        expected = torch.int8 if args.type == "int" else torch.float8_e4m3fn
        if weight.dtype != expected:
            raise ValueError(f"codes in {weight.dtype}, not in {expected}")
        if args.type == "float" and args.num_bits != BYTE_BITS:
            raise ValueError(f"codes of {BYTE_BITS} bits, not of {args.num_bits}")
        if args.type == "int":
            _check_width(weight, args.num_bits)
        return weight.float()
    if "weight_packed" not in parts:
        raise ValueError("no codes (weight, weight_packed)")
    packed = parts["weight_packed"]
    if args.type == "int":
        return _integers(packed, args.num_bits, _num_inputs(parts, args))
    if args.num_bits not in (4, 6) or packed.dtype != torch.uint8:
        raise ValueError(f"packed floats of {args.num_bits} bits in {packed.dtype}")
    # Bytes become whole words, so a row may end with codes of padding: cut them off.
    count = packed.shape[1] * BYTE_BITS // args.num_bits
    numbers = unpack_words(_bytes_to_words(packed), args.num_bits)[:, :count]
    return FLOAT_ELEMENTS[args.num_bits].decode(numbers)


def _bytes_to_words(packed: Tensor) -> Tensor:
    """Return bytes `[N, B]` as int32 words, the first byte lowest; zeros fill the last word."""
    missing = -packed.shape[1] % 4
    groups = torch.nn.functional.pad(packed, (0, missing)).long().view(len(packed), -1, 4)
    words: Tensor = (groups << torch.arange(0, WORD_BITS, BYTE_BITS)).sum(-1)
    return words


def _integers(words: Tensor, bits: int, count: int) -> Tensor:
    """Return the signed integers in int32 words along rows, float32 `[N, count]`."""
    if words.dtype != torch.int32 or words.shape[1] != -(-count * bits // WORD_BITS):
        raise ValueError(
            f"{tuple(words.shape)} words of {words.dtype} for {count} codes of {bits} bits a row"
        )
    # Writers add 2^(b-1) before they pack, so that no code is negative.
    codes: Tensor = unpack_words(words, bits)[:, :count].float() - 2 ** (bits - 1)
    return codes


def _num_inputs(parts: Mapping[str, Tensor], args: Any) -> int:
    if "weight_shape" in parts:
        return int(parts["weight_shape"][1])
    raise ValueError(f"no weight_shape for packed codes of {args.num_bits} bits")


def _check_width(integers: Tensor, bits: int) -> None:
    """Raise ValueError for integers that do not fit into `bits`: config.json says a wrong width."""
    lowest, highest = (int(bound) for bound in integers.aminmax())
    if lowest < -(2 ** (bits - 1)) or highest >= 2 ** (bits - 1):
        raise ValueError(f"integers from {lowest} to {highest} where there are {bits} bits")


def _scales_of(parts: Mapping[str, Tensor], args: Any, rows: int) -> Tensor:
    """Return the scales in float32, with the global scale of NVFP4 divided out."""
    check_parts(parts, ("weight_scale",))
    scale = decode_scales(parts["weight_scale"])
    # Some writers store per-channel scales as [N], not [N, 1].
    if scale.dim() == 1 and len(scale) == rows > 1:
        scale = scale[:, None]
    if args.strategy == "tensor_group":
        return scale / _global_scale(parts)
    if "weight_global_scale" in parts:
        raise ValueError(f"a weight_global_scale beside one scale a {args.strategy}")
    return scale


def _global_scale(parts: Mapping[str, Tensor]) -> Tensor:
    check_parts(parts, ("weight_global_scale",))
    scale = parts["weight_global_scale"]
    if scale.numel() != 1:
        raise ValueError(f"{scale.numel()} numbers in weight_global_scale, not 1")
    return scale.float().reshape(())


def _input_groups(parts: Mapping[str, Tensor], args: Any, columns: int) -> Tensor | None:
    """Return the group of each input `[K]`; None if groups follow one another."""
    group = parts.get("weight_g_idx")
    # Some writers store -1 for each input where groups follow one another.
    if group is None or (group < 0).all():
        return None
    check_groups(group, columns, args.group_size or columns)
    return group.long()


def _zero_point(parts: Mapping[str, Tensor], args: Any, scale: Tensor) -> Tensor | None:
    """Return the zero points in the shape of the scales, float32; None for symmetric codes."""
    zero = parts.get("weight_zero_point")
    if zero is None:
        if not args.symmetric:
            raise ValueError("no weight_zero_point")
        return None
    if zero.dtype == torch.int32 and zero.shape != scale.shape:
        # Packed along the outputs.
        num_outputs = int(parts["weight_shape"][0])
        zero = _integers(zero.T, args.num_bits, num_outputs).T
    if args.symmetric and zero.any():
        raise ValueError("a zero point that is not 0 for symmetric codes")
    if args.type == "int":
        _check_width(zero, args.num_bits)
    # Per-channel zero points may be [N] beside scales [N, 1].
    same = [size for size in zero.shape if size != 1] == [size for size in scale.shape if size != 1]
    return zero.float().reshape(scale.shape) if same else zero.float()


def _over_weights(scale: Tensor, codes: Tensor, args: Any, group: Tensor | None) -> Tensor:
    """Return scales or zero points in a shape that broadcasts against the codes `[N, K]`."""
    rows, columns = codes.shape
    height, width = {
        "tensor": (rows, columns),
        "channel": (1, columns),
        "group": (1, args.group_size),
        "tensor_group": (1, args.group_size),
        "block": tuple(args.block_structure or (1, 1)),
    }.get(str(args.strategy), (0, 0))
    if not height:
        raise ValueError(f"weights with one scale a {args.strategy}")
    expected = (-(-rows // height), -(-columns // width))
    if scale.numel() == 1 == expected[0] * expected[1]:
        return scale.reshape(1, 1)
    if scale.shape != expected:
        raise ValueError(f"scales {tuple(scale.shape)} where there must be {expected}")
    if group is not None:
        return scale[:, group]
    return over_blocks(scale, (rows, columns), (height, width))
