"""Decode what several methods store alike: packed codes, powers of two, scales of blocks.

N is the number of outputs, K of inputs.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

WORD_BITS = 32
"""Bits of an int32 word that codes are packed into."""
BYTE_BITS = 8
E8M0_BIAS = 127
"""Added to an exponent of two, so that a byte holds it."""


def unpack_words(words: Tensor, bits: int) -> Tensor:
    """Return the codes in int32 words `[R, W]` along their rows, the lowest bits first, int64.

    Example:
        4 bits: [R, W] -> [R, 8 W];    3 bits: [R, 3] -> [R, 32], where codes cross the word borders
    """
    # int64 without the sign: a shift to the right must bring in zeros.
    wide = words.long() & (2**WORD_BITS - 1)
    # A code may begin in one word and end in the next. The last word gets a successor of zeros.
    wide = torch.cat([wide, wide.new_zeros(len(wide), 1)], 1)
    start = torch.arange(words.shape[1] * WORD_BITS // bits, device=words.device) * bits
    index, shift = start // WORD_BITS, start % WORD_BITS
    low, high = wide[:, index] >> shift, wide[:, index + 1] << (WORD_BITS - shift)
    codes: Tensor = (low | high) & (2**bits - 1)
    return codes


def unpack_nibbles(packed: Tensor) -> Tensor:
    """Return the 4-bit codes in bytes, the lower half first: `[.., B]` -> `[.., 2 B]`."""
    return torch.stack([packed & 0xF, packed >> 4], -1).flatten(-2)


def decode_e8m0(exponents: Tensor) -> Tensor:
    """Return the powers of two of E8M0 bytes (OCP Microscaling Formats 1.0), float32."""
    # 255 is NaN in E8M0. Here it becomes infinity, and the loader rejects weights that are not
    # finite.
    return torch.ldexp(torch.ones(exponents.shape), exponents.int() - E8M0_BIAS)


def decode_scales(scales: Tensor) -> Tensor:
    """Return scales in float32. Bytes are E8M0."""
    return decode_e8m0(scales) if scales.dtype == torch.uint8 else scales.float()


def over_blocks(scales: Tensor, shape: tuple[int, int], block: tuple[int, int]) -> Tensor:
    """Repeat the scale of each block over its weights; the result broadcasts against `[N, K]`.

    Args:
        scales: `[ceil(N / n), ceil(K / k)]`.
        shape: `(N, K)`.
        block: `(n, k)`. Blocks at the edges are cut off with the weights.
    """
    tall = scales.repeat_interleave(block[0], 0)[: shape[0]] if block[0] > 1 else scales
    # One scale a row broadcasts by itself.
    return tall.repeat_interleave(block[1], 1)[:, : shape[1]] if scales.shape[1] > 1 else tall


def check_groups(group: Tensor, num_inputs: int, size: int) -> None:
    """Check that the groups of inputs `[K]` have `size` members, in any order; one may be short.

    Raises:
        ValueError: The groups have other sizes.
    """
    expected = torch.arange(num_inputs, device=group.device) // size
    if group.shape != expected.shape or not group.long().sort().values.equal(expected):
        raise ValueError(f"a g_idx that is not groups of {size} for {num_inputs} inputs")


def bits_of(tensors: Mapping[str, Tensor]) -> int:
    """Return the size of tensors as they are stored [bit]."""
    return sum(BYTE_BITS * tensor.nbytes for tensor in tensors.values())
