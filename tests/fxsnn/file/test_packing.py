"""Codes and spikes take as many bits as they have, and come back."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fxsnn.file import pack_codes
from fxsnn.file.packing import pack_spikes, packed_size, unpack_codes, unpack_spikes
from fxsnn.numerics import Codebook

SHAPES = st.lists(st.integers(1, 5), min_size=1, max_size=4)


@given(st.integers(1, 4), SHAPES, st.integers(0, 1 << 32))
def test_codes_come_back(bits: int, shape: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    top = Codebook.symmetric(bits).largest
    codes = torch.randint(-top, top + 1, shape, generator=generator).to(torch.int8)
    codes = torch.where(codes == 0, 1, codes).to(torch.int8) if bits == 1 else codes
    packed = pack_codes(codes, bits)
    assert packed.dtype == torch.uint8
    assert len(packed) == packed_size(shape, bits) == -(-codes.numel() * bits // 8)
    assert torch.equal(unpack_codes(packed, bits, shape), codes)


@given(SHAPES, st.integers(0, 1 << 32))
def test_spikes_come_back(shape: list[int], seed: int) -> None:
    spikes = torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(unpack_spikes(pack_spikes(spikes), shape), spikes.to(torch.uint8))


def test_the_layout_is_that_of_the_documents() -> None:
    assert pack_codes(torch.tensor([1, -1, 0, 1, -1], dtype=torch.int8), 2).tolist() == [0b01_00_11_01, 0b11]
    assert pack_codes(torch.tensor([3, -3, -1], dtype=torch.int8), 3).tolist() == [0b11_101_011, 0b1]
    assert pack_codes(torch.tensor([1, -1, 1], dtype=torch.int8), 1).tolist() == [0b101]
    assert pack_spikes(torch.tensor([1.0, 0.0, 0.0, 1.0])).tolist() == [0b1001]


@pytest.mark.parametrize(
    ("packed", "bits", "message"),
    [
        ([0], 2, "expected are 2 bytes"),
        ([0, 0, 0], 2, "expected are 2 bytes"),
        ([0, 0b100], 2, "unused bits"),
        ([0b10, 0], 2, "the code -2; 2 bits have -1"),
        ([0b1000, 0, 0], 4, "the code -8; 4 bits have -7"),
    ],
)
def test_what_no_codes_can_be_is_refused(packed: list[int], bits: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        unpack_codes(torch.tensor(packed, dtype=torch.uint8), bits, [5])


def test_other_types_are_refused() -> None:
    with pytest.raises(ValueError, match=r"it is torch\.int64"):
        unpack_spikes(torch.zeros(1, dtype=torch.int64), [3])
