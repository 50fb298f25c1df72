"""Magnitudes of images, and the step of the integer input that suits them.

Errors are squared and relative to the energy of their image, so that every image counts alike. In a plain sum of
squares one hot pixel of 1,000 outweighs a million pixels of 0 to 1, and all of them would round to zero to save it.
Where every image has its bright points, these are most of the energy of each and stay in range.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from fxsnn.calibration.bins import BINS, MANTISSA_BITS, bin_edges, bins_of
from fxsnn.layers import FAR_BEYOND

_CANDIDATES_PER_OCTAVE = 32

_AT_ONCE = 32
"""So many candidates are tried at once: fewer calls of PyTorch than one by one, and little memory."""

_ROUNDING = 1e-9
"""More than sums of double precision differ by, relative to what is summed."""


@dataclass(frozen=True)
class RoundedShares:
    """What a grid makes of the numbers of images that are not zero.

    Attributes:
        to_zero: the share of them that round to zero.
        clipped: the share of them that are more than `FAR_BEYOND` times what the largest code is worth.
    """

    to_zero: float
    clipped: float


class Counts(NamedTuple):
    """What was counted of some images.

    Attributes:
        largest: the largest magnitude.
        bins: those that have numbers.
        counts: of these, int64.
        moments: of these, [3, bins], see `Magnitudes`.
    """

    largest: float
    bins: Tensor
    counts: Tensor
    moments: Tensor


def counted(images: Tensor) -> Counts:
    """The magnitudes of images, finite numbers [N, ...]."""
    numbers = images.detach().cpu().double().abs().flatten(1)
    energy = numbers.square().sum(1, keepdim=True)
    weight = torch.where(energy > 0, 1 / energy, 0.0).expand_as(numbers)
    rows = numbers > 0
    values, weights = numbers[rows], weight[rows]
    bins = bins_of(values.float())
    distances = values - bin_edges()[bins]
    counts = torch.bincount(bins, minlength=BINS)
    used = counts.nonzero().squeeze(1)
    summands = (weights, weights * distances, weights * distances.square())
    moments = torch.stack([torch.bincount(bins, summand, minlength=BINS)[used] for summand in summands])
    return Counts(float(values.max()) if len(values) else 0.0, used, counts[used], moments)


class Magnitudes:
    """Counts of the magnitudes of images, in bounded memory.

    Attributes:
        largest: the largest magnitude so far.
        counts: int64 [bins], how many numbers that are not zero fell into each bin.
    """

    def __init__(self) -> None:
        self.largest = 0.0
        self.counts = torch.zeros(BINS, dtype=torch.int64)
        # Of each bin: the sum of the numbers' weights, and the weighted sums of their distances from the lower edge and
        # of the squares of these. Values that lie on the grid then have no error, however wide their bin is.
        self._moments = torch.zeros(3, BINS, dtype=torch.float64)

    def add(self, images: Tensor) -> None:
        """Count images, finite numbers [N, ...]."""
        self.join(counted(images))

    def join(self, counts: Counts) -> None:
        """Add what was counted of some images; the order of batches decides about the last digits of the moments."""
        self.largest = max(self.largest, counts.largest)
        self.counts[counts.bins] += counts.counts
        self._moments[:, counts.bins] += counts.moments

    def widest_unit(self, bits: int) -> float:
        """The step at which the largest magnitude has the largest code; 1 where there is none."""
        return self.largest / _top(bits) or 1.0

    def least_error_unit(self, bits: int) -> float:
        """The step at which rounding and clipping to signed `bits` cost the least squared error.

        It is the widest unless another is surely better: the exact error within a bin is known only where all of it
        rounds to one code. So it is never worse, and ordinary images keep the widest.
        """
        used = self.counts.nonzero().squeeze(1)
        if len(used) == 0:
            return 1.0
        widest, edges = self.widest_unit(bits), bin_edges()
        low, high, moments = edges[used], edges[used + 1], self._moments[:, used]
        steps = 1 + int(_CANDIDATES_PER_OCTAVE * max(0.0, float(torch.log2(self.largest / low[0]))))
        units = [widest * 2.0 ** (-step / _CANDIDATES_PER_OCTAVE) for step in range(1, steps)]
        best, least = widest, _least_error(low, high, moments, widest, bits)
        for first in range(0, len(units), _AT_ONCE):
            some = units[first : first + _AT_ONCE]
            for unit, error in zip(some, _most_errors(low, moments, some, bits), strict=True):
                if error < least:
                    best, least = unit, error
            if _error_of_clipping(low, moments, some[-1], bits) > least * (1 + _ROUNDING):
                break  # a smaller step clips more, and has no less error
        return best

    def shares(self, unit: float, bits: int) -> RoundedShares:
        """What becomes of the numbers that are not zero at this step, to the width of a bin."""
        total = max(1, int(self.counts.sum()))
        edges = bin_edges()
        to_zero = self.counts[edges[1:] <= unit / 2 * (1 + 2.0**-MANTISSA_BITS)]
        clipped = self.counts[edges[:-1] > FAR_BEYOND * _top(bits) * unit]
        return RoundedShares(int(to_zero.sum()) / total, int(clipped.sum()) / total)

    def median(self) -> float:
        """The magnitude below which half of the numbers lie that are not zero, to the width of a bin."""
        below = torch.cumsum(self.counts, 0)
        return float(bin_edges()[int(torch.searchsorted(below, (below[-1] + 1) // 2))])


def _top(bits: int) -> int:
    """The largest code; the one more that negative numbers have is not counted on."""
    return (1 << (bits - 1)) - 1


def _most_errors(low: Tensor, moments: Tensor, units: list[float], bits: int) -> list[float]:
    """The error at most of each step: all numbers of a bin get the code of their mean."""
    steps = torch.tensor(units, dtype=torch.float64)[:, None]
    found: list[float] = _errors(low, moments, steps, bits).sum(1).tolist()
    return found


def _least_error(low: Tensor, high: Tensor, moments: Tensor, unit: float, bits: int) -> float:
    """The error at least: none in bins whose numbers may have several codes."""
    one_code = (low / unit).round() == (high / unit).round()
    # Beyond both ends of the bins nothing is known of where numbers lie.
    one_code &= (low > bin_edges()[0]) & (high < bin_edges()[-1])
    return float(_errors(low, moments, unit, bits)[one_code].sum())


def _error_of_clipping(low: Tensor, moments: Tensor, unit: float, bits: int) -> float:
    """The part of the error at most that is of bins beyond the largest code."""
    weights, distances, _ = moments
    clipped = low + distances / weights > (_top(bits) + 0.5) * unit
    return float(_errors(low, moments, unit, bits)[clipped].sum())


def _errors(low: Tensor, moments: Tensor, unit: float | Tensor, bits: int) -> Tensor:
    """Squared errors of all bins, where all numbers of a bin get the code of their mean; a row for each step."""
    weights, distances, squares = moments
    mean = low + distances / weights.clamp_min(torch.finfo(torch.float64).tiny)
    rounded = (mean / unit).round().clamp(max=_top(bits)) * unit - low
    return (squares - 2 * rounded * distances + rounded.square() * weights).clamp_min(0)
