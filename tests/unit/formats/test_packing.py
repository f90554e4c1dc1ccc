"""Packed codes against one long integer of Python."""

import math

import pytest
import torch
from looped import looped

from harness.formats import packing
from harness.formats.packing import pack, unpack

each_width = looped("bits", range(1, 9))


@each_width
@looped("count", [0, 1, 2, 7, 8, 9, 100, 1001])
def test_bytes_are_those_of_one_long_integer_and_come_back(bits: int, count: int) -> None:
    codes = some(count, bits)
    packed = pack(codes, bits)
    assert packed.dtype is torch.uint8
    assert bytes(packed.tolist()) == long_integer(codes, bits)
    assert torch.equal(unpack(packed, bits, count), codes)


@each_width
def test_pieces_meet_without_a_gap(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "CODES_AT_ONCE", 16)
    for count in (15, 16, 17, 48, 50):
        codes = some(count, bits)
        packed = pack(codes, bits)
        assert bytes(packed.tolist()) == long_integer(codes, bits)
        assert torch.equal(unpack(packed, bits, count), codes)


@pytest.mark.parametrize("bits", [3, 4, 8])
def test_more_codes_than_a_piece_come_back(bits: int) -> None:
    codes = some(packing.CODES_AT_ONCE + 5, bits)
    packed = pack(codes, bits)
    assert len(packed) == math.ceil(len(codes) * bits / 8)
    assert torch.equal(unpack(packed, bits, len(codes)), codes)


def test_even_element_of_four_bits_is_in_the_low_nibble() -> None:
    codes = torch.tensor([0x1, 0x2, 0xF], dtype=torch.uint8)
    assert pack(codes, 4).tolist() == [0x21, 0x0F]


@each_width
def test_matrix_is_packed_row_after_row_whatever_its_memory(bits: int) -> None:
    codes = some(60, bits).view(5, 12)
    before = codes.clone()
    assert torch.equal(pack(codes.T, bits), pack(codes.T.contiguous().flatten(), bits))
    assert torch.equal(pack(codes, bits), pack(codes.flatten(), bits))
    assert torch.equal(codes, before)


def some(count: int, bits: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(count + bits)
    return torch.randint(2**bits, (count,), generator=generator, dtype=torch.uint8)


def long_integer(codes: torch.Tensor, bits: int) -> bytes:
    total = sum(code << (bits * place) for place, code in enumerate(codes.flatten().tolist()))
    return total.to_bytes(math.ceil(codes.numel() * bits / 8), "little")
