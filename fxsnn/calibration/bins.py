"""Bins of equal relative width, so that no range of values has to be known beforehand."""

from __future__ import annotations

import torch
from torch import Tensor

MANTISSA_BITS = 10
"""A bin is 2^-10, about 0.1 %, wide."""

_LEAST_EXPONENT, _EXPONENTS = -32, 64
_FIRST = (127 + _LEAST_EXPONENT) << MANTISSA_BITS

BINS = _EXPONENTS << MANTISSA_BITS
"""From 2^-32 to 2^32; the first and the last bin hold what lies beyond, too."""


def bins_of(positive: Tensor) -> Tensor:
    """The bin of each of these positive float32 values."""
    # A float32 is sign, exponent, mantissa: its leading bits are the number of a logarithmic bin.
    return ((positive.view(torch.int32) >> (23 - MANTISSA_BITS)) - _FIRST).clamp(0, BINS - 1)


def bin_edges() -> Tensor:
    """Lower edges of the bins and the upper edge of the last, float64 [bins + 1]."""
    bits = (torch.arange(BINS + 1, dtype=torch.int64) + _FIRST) << (23 - MANTISSA_BITS)
    return bits.to(torch.int32).view(torch.float32).double()
