"""Codes of 1 to 8 bits packed without gaps, as they lie in memory and in files.

Codes follow each other end to end, least significant bit first, across byte borders. With 4 bits
the even element lies in the low nibble, as in torchao.

    codes 0b001, 0b111, 0b101 of 3 bits  ->  bytes 0b01111001, 0b00000001
"""

import torch
from torch import Tensor

CODES_AT_ONCE = 2**20
"""Packing needs a byte for every bit: pieces bound that memory. A multiple of 8."""


def pack(codes: Tensor, bits: int) -> Tensor:
    """Return `codes` (uint8, below `2^bits`) as `ceil(n * bits / 8)` bytes."""
    if bits == 8:
        return codes.flatten()
    parts = [_pack(part, bits) for part in torch.split(codes.flatten(), CODES_AT_ONCE)]
    return torch.cat(parts) if parts else codes.flatten()


def unpack(packed: Tensor, bits: int, count: int) -> Tensor:
    """Return the first `count` codes of `packed`, uint8 `[count]`."""
    if bits == 8:
        return packed[:count]
    # Every piece but the last ends at a byte border, because 8 divides CODES_AT_ONCE.
    parts = [_unpack(part, bits) for part in torch.split(packed, CODES_AT_ONCE * bits // 8)]
    return torch.cat(parts)[:count] if parts else packed


def _pack(codes: Tensor, bits: int) -> Tensor:
    # One byte for each bit of the stream, `[n, bits]` -> `[n * bits]`.
    stream = (codes[:, None] >> _shifts(bits, codes)) & 1
    stream = stream.flatten()
    # Fill the last byte with zeros, and join 8 bits to a byte.
    stream = torch.nn.functional.pad(stream, (0, -len(stream) % 8)).view(-1, 8)
    return (stream << _shifts(8, codes)).sum(1, dtype=torch.uint8)


def _unpack(packed: Tensor, bits: int) -> Tensor:
    # One byte for each bit of the stream, `[m, 8]` -> `[m * 8]`.
    stream = ((packed[:, None] >> _shifts(8, packed)) & 1).flatten()
    # Drop the bits that fill the last byte, and join `bits` bits to a code.
    stream = stream[: len(stream) // bits * bits].view(-1, bits)
    return (stream << _shifts(bits, packed)).sum(1, dtype=torch.uint8)


def _shifts(n: int, like: Tensor) -> Tensor:
    return torch.arange(n, dtype=torch.uint8, device=like.device)
