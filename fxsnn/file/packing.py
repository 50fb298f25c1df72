"""Bits: weight codes and spikes, as many to a byte as fit, first ones in the lowest bits."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fxsnn.numerics import Codebook

_AT_ONCE = 1 << 20
"""So many values are unpacked at a time: in between, each bit takes a byte."""


def packed_size(shape: Sequence[int], bits: int) -> int:
    """How many bytes values of so many bits take."""
    return -(-math.prod(shape) * bits // 8)


def pack_codes(codes: Tensor, codebook: Codebook) -> Tensor:
    """Weight codes as bytes: of a symmetric codebook in two's complement of its bits (at 1 bit, 1 stands for +1 and 0
    for -1), of any other as places among its levels.

    Args:
        codes: int8, any shape: levels of the codebook.
        codebook: its bits are those of a code.

    Returns:
        uint8, one dimension; unused bits of the last byte are 0.
    """
    bits = codebook.bits
    if not codebook.is_symmetric or codebook.binary:
        levels = torch.tensor(codebook.levels, dtype=torch.int8, device=codes.device)
        return _packed(torch.searchsorted(levels, codes.contiguous()).to(torch.uint8), bits)
    return _packed(codes.to(torch.uint8) & ((1 << bits) - 1), bits)


def unpack_codes(packed: Tensor, codebook: Codebook, shape: Sequence[int]) -> Tensor:
    """The codes that `pack_codes` packed, int8.

    Raises:
        ValueError: the bytes are too many or too few, or a code is not one that the codebook has.
    """
    bits = codebook.bits
    codes = _unpacked(packed, bits, shape)
    if not codebook.is_symmetric or codebook.binary:
        if bool((codes >= len(codebook.levels)).any()):
            raise ValueError(f"it has the level number {int(codes.max())}; there are 0 to {len(codebook.levels) - 1}")
        return torch.tensor(codebook.levels, dtype=torch.int8)[codes.int()]
    codes = codes.view(torch.int8)
    codes.sub_((codes >> (bits - 1)) << bits)
    if bool((codes < codebook.levels[0]).any()):
        raise ValueError(f"it has the code {int(codes.min())}; {bits} bits have {codebook.levels[0]} and above")
    return codes


def pack_spikes(spikes: Tensor) -> Tensor:
    """Spikes, 0 and 1 of any type and shape, as bytes."""
    return _packed(spikes.to(torch.uint8), 1)


def unpack_spikes(packed: Tensor, shape: Sequence[int]) -> Tensor:
    """The spikes that `pack_spikes` packed, uint8.

    Raises:
        ValueError: the bytes are too many or too few.
    """
    return _unpacked(packed, 1, shape)


def _packed(values: Tensor, bits: int) -> Tensor:
    planes = values.reshape(-1, 1).cpu().numpy() >> np.arange(bits, dtype=np.uint8) & 1
    return torch.from_numpy(np.packbits(planes.reshape(-1), bitorder="little"))


def _unpacked(packed: Tensor, bits: int, shape: Sequence[int]) -> Tensor:
    count, expected = math.prod(shape), packed_size(shape, bits)
    if packed.dtype != torch.uint8 or packed.dim() != 1 or len(packed) != expected:
        raise ValueError(f"it is {packed.dtype} {list(packed.shape)}; expected are {expected} bytes")
    values = np.empty(count, np.uint8)
    for start in range(0, count, _AT_ONCE):  # eight values begin at a whole byte, whatever the bits
        stop = min(count, start + _AT_ONCE)
        piece = np.unpackbits(packed[start * bits // 8 : -(-stop * bits // 8)].numpy(), bitorder="little")
        if piece[(stop - start) * bits :].any():
            raise ValueError("its unused bits are not 0")
        planes = piece[: (stop - start) * bits].reshape(-1, bits) << np.arange(bits, dtype=np.uint8)
        values[start:stop] = planes.sum(1, dtype=np.uint8)
    return torch.from_numpy(values).reshape(tuple(shape))
