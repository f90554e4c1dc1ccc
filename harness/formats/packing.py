"""Codes of any width, packed without gaps: what they really take in memory and in a file.

Codes are laid end to end, the least significant bit first, across byte borders; 4-bit codes therefore have the even
element in the low nibble, as torchao has it.
"""

import torch
from torch import Tensor

PIECE = 2**20


def pack(codes: Tensor, bits: int) -> Tensor:
    """Return `codes` (uint8, below `2^bits`) as `ceil(n * bits / 8)` bytes."""
    if bits == 8:
        return codes.flatten()
    parts = [_pack(part, bits) for part in torch.split(codes.flatten(), PIECE)]
    return torch.cat(parts) if parts else codes.flatten()


def unpack(packed: Tensor, bits: int, count: int) -> Tensor:
    """Return the first `count` codes of `packed`, uint8 `[count]`."""
    if bits == 8:
        return packed[:count]
    # A piece of PIECE codes ends at a byte border, since 8 divides PIECE.
    parts = [_unpack(part, bits) for part in torch.split(packed, PIECE * bits // 8)]
    return torch.cat(parts)[:count] if parts else packed


def _shifts(n: int, like: Tensor) -> Tensor:
    return torch.arange(n, dtype=torch.uint8, device=like.device)


def _pack(codes: Tensor, bits: int) -> Tensor:
    stream = (codes[:, None] >> _shifts(bits, codes)) & 1
    stream = stream.flatten()
    stream = torch.nn.functional.pad(stream, (0, -len(stream) % 8)).view(-1, 8)
    return (stream << _shifts(8, codes)).sum(1, dtype=torch.uint8)


def _unpack(packed: Tensor, bits: int) -> Tensor:
    stream = ((packed[:, None] >> _shifts(8, packed)) & 1).flatten()
    stream = stream[: len(stream) // bits * bits].view(-1, bits)
    return (stream << _shifts(bits, packed)).sum(1, dtype=torch.uint8)
