"""Packed codes, powers of two and scales of blocks, against numbers written out and plain loops."""

import numpy as np
import pytest
import torch

from harness.models.checkpoints.methods.codes import (
    check_groups,
    decode_e8m0,
    over_blocks,
    unpack_nibbles,
    unpack_words,
)


def test_three_bits_cross_words_as_autogptq_packs_them() -> None:
    """Ten numbers and two bits of the next in the first of three words; 1 + 10 + 1; 2 + 10."""
    n = np.random.default_rng(0).integers(0, 8, 32)
    words = [0, 0, 0]
    for j in range(10):
        words[0] |= int(n[j]) << (3 * j)
        words[1] |= int(n[11 + j]) << (3 * j + 1)
        words[2] |= int(n[22 + j]) << (3 * j + 2)
    words[0] |= (int(n[10]) & 3) << 30
    words[1] |= int(n[10]) >> 2 | (int(n[21]) & 1) << 31
    words[2] |= int(n[21]) >> 1
    packed = torch.from_numpy(np.array([words], dtype=np.uint32).view(np.int32))
    assert unpack_words(packed, 3).tolist() == [n.tolist()]


def test_codes_of_four_bits_are_the_lower_half_of_a_byte_first() -> None:
    packed = torch.tensor([[0x21, 0x43]], dtype=torch.uint8)
    assert unpack_nibbles(packed).tolist() == [[1, 2, 3, 4]]
    words = torch.tensor([[0x76543210]], dtype=torch.int32)
    assert unpack_words(words, 4).tolist() == [[0, 1, 2, 3, 4, 5, 6, 7]]


def test_negative_words_have_no_sign() -> None:
    assert unpack_words(torch.tensor([[-1]], dtype=torch.int32), 8).tolist() == [[255] * 4]


def test_bytes_of_e8m0_are_powers_of_two() -> None:
    exponents = torch.tensor([0, 126, 127, 128, 254, 255], dtype=torch.uint8)
    expected = [2.0**-127, 0.5, 1.0, 2.0, 2.0**127, float("inf")]
    assert decode_e8m0(exponents).tolist() == expected


def test_every_weight_gets_the_scale_of_its_block() -> None:
    for rows, columns, height, width in ((6, 8, 2, 4), (5, 7, 2, 3), (3, 4, 1, 4), (4, 3, 4, 1)):
        shape = (-(-rows // height), -(-columns // width))
        scales = torch.arange(1.0, 1 + shape[0] * shape[1]).view(shape)
        found = over_blocks(scales, (rows, columns), (height, width)).expand(rows, columns)
        for n in range(rows):
            for k in range(columns):
                assert found[n, k] == scales[n // height, k // width], (rows, columns, n, k)


def test_groups_may_be_in_any_order_but_not_of_any_size() -> None:
    check_groups(torch.tensor([1, 0, 1, 0, 2]), 5, 2)
    with pytest.raises(ValueError, match="not groups of 2 for 5 inputs"):
        check_groups(torch.tensor([1, 0, 1, 1, 2]), 5, 2)
