"""Codes and spikes take as many bits as they have, and come back."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fxsnn.file import pack_codes
from fxsnn.file.packing import pack_spikes, packed_size, unpack_codes, unpack_spikes
from fxsnn.numerics import Codebook
from tests.codebooks import codebooks, random_codes

SHAPES = st.lists(st.integers(1, 5), min_size=1, max_size=4)


@given(codebooks() | st.integers(1, 4).map(Codebook.symmetric), SHAPES, st.integers(0, 1 << 32))
def test_codes_come_back(codebook: Codebook, shape: list[int], seed: int) -> None:
    codes = random_codes(codebook, tuple(shape), torch.Generator().manual_seed(seed))
    packed = pack_codes(codes, codebook)
    assert packed.dtype == torch.uint8
    assert len(packed) == packed_size(shape, codebook.bits) == -(-codes.numel() * codebook.bits // 8)
    assert torch.equal(unpack_codes(packed, codebook, shape), codes)


@given(SHAPES, st.integers(0, 1 << 32))
def test_spikes_come_back(shape: list[int], seed: int) -> None:
    spikes = torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(unpack_spikes(pack_spikes(spikes), shape), spikes.to(torch.uint8))


def test_the_layout_is_that_of_the_documents() -> None:
    def packed(codes: list[int], codebook: Codebook) -> list[int]:
        found: list[int] = pack_codes(torch.tensor(codes, dtype=torch.int8), codebook).tolist()
        return found

    assert packed([1, -1, 0, 1, -1], Codebook.symmetric(2)) == [0b01_00_11_01, 0b11]
    assert packed([3, -3, -1], Codebook.symmetric(3)) == [0b11_101_011, 0b1]
    assert packed([1, -1, 1], Codebook.symmetric(1)) == [0b101]
    assert packed([-3, 3, 1, -1], Codebook((-3, -1, 1, 3))) == [0b01_10_11_00]
    assert pack_spikes(torch.tensor([1.0, 0.0, 0.0, 1.0])).tolist() == [0b1001]


@pytest.mark.parametrize(
    ("packed", "codebook", "message"),
    [
        ([0], Codebook.symmetric(2), "expected are 2 bytes"),
        ([0, 0, 0], Codebook.symmetric(2), "expected are 2 bytes"),
        ([0, 0b100], Codebook.symmetric(2), "unused bits"),
        ([0b10, 0], Codebook.symmetric(2), "the code -2; 2 bits have -1"),
        ([0b1000, 0, 0], Codebook.symmetric(4), "the code -8; 4 bits have -7"),
        ([0b101, 0], Codebook((-2, -1, 0, 1, 2)), "the level number 5; there are 0 to 4"),
    ],
)
def test_what_no_codes_can_be_is_refused(packed: list[int], codebook: Codebook, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        unpack_codes(torch.tensor(packed, dtype=torch.uint8), codebook, [5])


def test_other_types_are_refused() -> None:
    with pytest.raises(ValueError, match=r"it is torch\.int64"):
        unpack_spikes(torch.zeros(1, dtype=torch.int64), [3])
