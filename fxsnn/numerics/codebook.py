"""Codebooks: the few small integers that the weights of a layer are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import pairwise

import torch
from torch import Tensor

from fxsnn.chip import ALL_BITS, whole_number
from fxsnn.errors import OptionError
from fxsnn.options import shown

LARGEST_LEVEL = 15
"""The largest magnitude of a level: sums of four are exact in the 8 bits of the engines' tables."""


@dataclass(frozen=True)
class Codebook:
    """The levels of a layer's weights: a weight is `step * level`, and the chip holds `gain * level`.

    Attributes:
        levels: 2 to 16 different whole numbers in ascending order, from -15 to 15, some below zero and some above.

    Raises:
        OptionError: they are not.

    >>> Codebook.symmetric(2)
    Codebook(levels=(-1, 0, 1))
    """

    levels: tuple[int, ...]

    def __post_init__(self) -> None:
        given = self.levels if isinstance(self.levels, tuple | list) else ()
        levels = tuple(whole for one in given if (whole := whole_number(one)) is not None)
        ordered = len(levels) == len(given) <= 1 << max(ALL_BITS) and list(levels) == sorted(set(levels))
        if not ordered or not levels or not -LARGEST_LEVEL <= levels[0] < 0 < levels[-1] <= LARGEST_LEVEL:
            raise OptionError(
                f"the levels of a codebook are {shown(self.levels)}; allowed are 2 to {1 << max(ALL_BITS)} different "
                f"whole numbers in ascending order, from {-LARGEST_LEVEL} to {LARGEST_LEVEL}, some below zero and some "
                "above"
            )
        object.__setattr__(self, "levels", levels)

    @classmethod
    def symmetric(cls, bits: int) -> Codebook:
        """All whole numbers up to `2**(bits - 1) - 1` in magnitude; at 1 bit, -1 and 1.

        >>> [Codebook.symmetric(bits).largest for bits in (1, 2, 3, 4)]
        [1, 1, 3, 7]
        """
        top = (1 << (bits - 1)) - 1
        return cls(tuple(range(-top, top + 1)) if bits > 1 else (-1, 1))

    @classmethod
    def numbered(cls, number: int) -> Codebook:
        """The one of that `number`.

        Raises:
            OptionError: there is none.
        """
        places = range(-LARGEST_LEVEL, LARGEST_LEVEL + 1)
        if number >> len(places):
            raise OptionError(f"no codebook has the number {number}; allowed are numbers below 2^{len(places)}")
        return cls(tuple(level for level in places if number >> (level + LARGEST_LEVEL) & 1))

    @property
    def number(self) -> int:
        """A whole number below 2^31 that stands for it: bit `level + 15` is set for each level."""
        return sum(1 << (level + LARGEST_LEVEL) for level in self.levels)

    @property
    def bits(self) -> int:
        """Width of an index into it, 1 to 4."""
        return (len(self.levels) - 1).bit_length()

    @property
    def largest(self) -> int:
        """The largest magnitude of a level."""
        return max(-self.levels[0], self.levels[-1])

    @property
    def is_symmetric(self) -> bool:
        """It is the symmetric one of its bits."""
        return self == Codebook.symmetric(self.bits)

    @property
    def binary(self) -> bool:
        """It has the signs alone: then a weight's code does not depend on its step."""
        return self.levels == (-1, 1)

    @property
    def reach(self) -> tuple[float, float]:
        """How far values are near the outermost levels: half a gap between levels beyond them; 3 for the signs alone.

        Three mean magnitudes leave out the outermost 2 % of a normal distribution.
        """
        if self.binary:
            return -3.0, 3.0
        (low, above), (below, high) = self.levels[:2], self.levels[-2:]
        return low - (above - low) / 2, high + (high - below) / 2

    def __str__(self) -> str:
        low, high = self.levels[0], self.levels[-1]
        return f"{low}..{high}" if high - low + 1 == len(self.levels) else ", ".join(map(str, self.levels))

    @cached_property
    def boundaries(self) -> tuple[float, ...]:
        """Halfway between neighbouring levels."""
        return tuple((below + above) / 2 for below, above in pairwise(self.levels))

    def nearest(self, values: Tensor) -> Tensor:
        """The level nearest to each value; of two as near the even one, of two that are both even or odd the larger.

        Args:
            values: of any shape, in a floating type; narrower ones than float32 are compared as float32.

        Returns:
            Levels in the type of the values.
        """
        return self.rounding(values)(values)

    def rounding(self, like: Tensor) -> Callable[[Tensor], Tensor]:
        """`nearest`, many times: for values of the type of these, where these are."""
        dtype, wide = like.dtype, torch.promote_types(like.dtype, torch.float32)
        low, high = self.levels[0], self.levels[-1]
        if high - low + 1 == len(self.levels):  # rounding does the same, at once
            return lambda values: values.to(wide).round().clamp_(low, high).to(dtype)
        upward = [above % 2 == 0 or below % 2 != 0 for below, above in pairwise(self.levels)]  # halfway counts as above
        if torch.compiler.is_compiling():
            return partial(self._by_comparisons, upward)
        levels, boundaries = (
            torch.tensor(each, dtype=wide, device=like.device) for each in (self.levels, self.boundaries)
        )
        # What counts is whether a value is at least the boundary; where ties go down, at least the next number.
        least = boundaries.where(torch.tensor(upward, device=like.device), boundaries.nextafter(boundaries + 1))
        return lambda values: levels[torch.bucketize(values.to(wide).contiguous(), least, right=True)].to(dtype)

    def _by_comparisons(self, upward: Sequence[bool], values: Tensor) -> Tensor:
        """The level nearest to each value, in what a compiler can fuse and ONNX can say."""
        wide = values.to(torch.promote_types(values.dtype, torch.float32))
        found = torch.full_like(wide, self.levels[0])
        for (below, above), boundary, up in zip(pairwise(self.levels), self.boundaries, upward, strict=True):
            found = found + (above - below) * (wide >= boundary if up else wide > boundary)
        return found.to(values.dtype)
