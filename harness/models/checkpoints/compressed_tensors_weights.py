"""Weights in the layouts of compressed-tensors (0.20, llm-compressor), dequantized in float32.

For a linear layer of K inputs and N outputs:

    weight_packed        int32 [N, ceil(K b / 32)]    b-bit codes + 2^(b-1), the lowest bits first; or
                         uint8 [N, K b / 8]           E2M1 (b = 4, two a byte) or E2M3 (b = 6, four in three bytes), lowest first
    weight               int8 or float8_e4m3fn        one code an element
    weight_scale         float, or uint8 exponents + 127 (MX)
                         [1] a tensor, [N, 1] rows, [N, G] groups, [N / n, K / k] rectangles, the last ones cut off
    weight_zero_point    like the scale; packed along N as int32 [ceil(N b / 32), G] beside int32 codes
    weight_global_scale  [1]                          NVFP4: scales are in units of 1 / global scale
    weight_g_idx         [K]                          the group of each input, of GPTQ in the order of activations
    weight_shape         [2]                          N and K

    w = (code - zero) * scale / global scale

The library does the same in the type of the scales, or in bfloat16 (NVFP4, MX); here nothing is rounded before the model's type.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from harness.models.activations.activation_format import FLOATS
from harness.models.checkpoints.dequantized import decode_e8m0
from harness.models.checkpoints.gptq import WORD, check_groups, unpack

PARTS = (
    "weight_packed",
    "weight",
    "weight_scale",
    "weight_zero_point",
    "weight_global_scale",
    "weight_g_idx",
    "weight_shape",
)
"""What is stored for the weight of a layer."""
BYTE = 8


def dequantize(parts: Mapping[str, Tensor], args: Any) -> Tensor:
    """Return the float32 weight `[N, K]` of a layer.

    Args:
        parts: Its tensors, by the names above.
        args: `QuantizationArgs` of the library.

    Raises:
        ValueError: The tensors are not what `args` say.
    """
    codes = _codes(parts, args)
    if "weight_scale" not in parts:
        raise ValueError("no weight_scale")
    scale = _scale(parts["weight_scale"])
    # Some writers store the scales of rows as [N], not [N, 1].
    if scale.dim() == 1 and len(scale) == len(codes) > 1:
        scale = scale[:, None]
    if args.strategy == "tensor_group":
        scale = scale / _global_scale(parts)
    elif "weight_global_scale" in parts:
        raise ValueError(f"a weight_global_scale beside one scale a {args.strategy}")
    group = parts.get("weight_g_idx")
    if group is not None and (group < 0).all():  # written where the order is the usual one
        group = None
    if group is not None:
        check_groups(group, codes.shape[1], args.group_size or codes.shape[1])
    # Zero points have the shape of the scales and count in codes: subtract them first.
    zero = _zero_point(parts, args, scale)
    if zero is not None:
        codes = codes - _spread(zero, codes, args, group)
    return codes * _spread(scale, codes, args, group)


def packed_bits(parts: Mapping[str, Tensor], args: Any) -> int:
    """Return the size of codes, at the width of their format, and of what is stored beside them [bit]."""
    # A byte may hold a code of fewer bits: INT4 beside INT8 inputs is stored as int8.
    unused = parts["weight"].numel() * (BYTE - args.num_bits) if "weight" in parts else 0
    return sum(BYTE * tensor.nbytes for tensor in parts.values()) - unused


def _codes(parts: Mapping[str, Tensor], args: Any) -> Tensor:
    """Return codes, or the values of small floats, float32 `[N, K]`."""
    if "weight" in parts:
        weight = parts["weight"]
        expected = torch.int8 if args.type == "int" else torch.float8_e4m3fn
        if weight.dtype != expected:
            raise ValueError(f"codes in {weight.dtype}, not in {expected}")
        if args.type == "float" and args.num_bits != BYTE:
            raise ValueError(f"codes of {BYTE} bits, not of {args.num_bits}")
        if args.type == "int":
            _check_range(weight, args.num_bits)
        return weight.float()
    if "weight_packed" not in parts:
        raise ValueError("no codes (weight, weight_packed)")
    words = parts["weight_packed"]
    if args.type == "int":
        return _integers(words, args.num_bits, _num_inputs(parts, args))
    if args.num_bits not in (4, 6) or words.dtype != torch.uint8:
        raise ValueError(f"packed floats of {args.num_bits} bits in {words.dtype}")
    # Unpacking in whole words gives codes of padding at the end of a row: cut them off.
    numbers = unpack(_words(words), args.num_bits)[:, : words.shape[1] * BYTE // args.num_bits]
    return FLOATS[args.num_bits].decode(numbers)


def _words(packed: Tensor) -> Tensor:
    """Return bytes `[N, B]` as int32 words, the first byte lowest, zeros behind the last."""
    missing = -packed.shape[1] % 4
    groups = torch.nn.functional.pad(packed, (0, missing)).long().view(len(packed), -1, 4)
    words: Tensor = (groups << torch.arange(0, WORD, BYTE)).sum(-1)
    return words


def _integers(words: Tensor, bits: int, count: int) -> Tensor:
    """Return signed integers from int32 words along rows, float32 `[N, count]`."""
    if words.dtype != torch.int32 or words.shape[1] != -(-count * bits // WORD):
        raise ValueError(
            f"{tuple(words.shape)} words of {words.dtype} for {count} codes of {bits} bits a row"
        )
    # Writers add 2^(b-1) before they pack, so that a code is not negative.
    codes: Tensor = unpack(words, bits)[:, :count].float() - 2 ** (bits - 1)
    return codes


def _num_inputs(parts: Mapping[str, Tensor], args: Any) -> int:
    if "weight_shape" in parts:
        return int(parts["weight_shape"][1])
    raise ValueError(f"no weight_shape for packed codes of {args.num_bits} bits")


def _check_range(integers: Tensor, bits: int) -> None:
    """Raise ValueError for integers that `bits` do not hold: they have another width than config.json says."""
    lowest, highest = (int(bound) for bound in integers.aminmax())
    if lowest < -(2 ** (bits - 1)) or highest >= 2 ** (bits - 1):
        raise ValueError(f"integers from {lowest} to {highest} where there are {bits} bits")


def _global_scale(parts: Mapping[str, Tensor]) -> Tensor:
    if "weight_global_scale" not in parts:
        raise ValueError("no weight_global_scale")
    scale = parts["weight_global_scale"]
    if scale.numel() != 1:
        raise ValueError(f"{scale.numel()} numbers in weight_global_scale, not 1")
    return scale.float().reshape(())


def _scale(scale: Tensor) -> Tensor:
    """Return scales in float32; bytes are exponents of two."""
    return decode_e8m0(scale) if scale.dtype == torch.uint8 else scale.float()


def _zero_point(parts: Mapping[str, Tensor], args: Any, scale: Tensor) -> Tensor | None:
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
        _check_range(zero, args.num_bits)
    # Rows alone may leave the axis of groups out.
    same = [size for size in zero.shape if size != 1] == [size for size in scale.shape if size != 1]
    return zero.float().reshape(scale.shape) if same else zero.float()


def _spread(scale: Tensor, codes: Tensor, args: Any, group: Tensor | None) -> Tensor:
    """Return scales or zero points so that they broadcast against the codes `[N, K]`."""
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
    shape = (-(-rows // height), -(-columns // width))
    if scale.numel() == 1 == shape[0] * shape[1]:
        return scale.reshape(1, 1)
    if scale.shape != shape:
        raise ValueError(f"scales {tuple(scale.shape)} where there must be {shape}")
    if group is not None:
        return scale[:, group.long()]
    tall = scale.repeat_interleave(height, 0)[:rows] if height > 1 else scale
    return tall.repeat_interleave(width, 1)[:, :columns] if shape[1] > 1 else tall
