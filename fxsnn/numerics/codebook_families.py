"""Which codebooks a layer may have, and which of them has the least squared error for its weights.

A free codebook is one of a few. Trained weights lie between a normal and a Laplace distribution, and are nearly uniform
where a row has few; so the family has, beside the symmetric one and two's complement, evenly spaced levels without
zero, and for both distributions levels of least squared error. These were found among all whole numbers up to some
magnitude, by dynamic programming for every step; the smallest magnitude was taken that larger ones better by no more
than 1.5 %. At 4 bits of a Laplace distribution none up to 15 is as good as that; larger ones cost the engines time.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from fxsnn.chip import CODEBOOKS
from fxsnn.numerics.codebook import Codebook
from fxsnn.numerics.lowbit import least_error

SYMMETRIC, FULL, FREE = CODEBOOKS

OF_NORMAL = {
    2: Codebook((-3, -1, 1, 3)),
    3: Codebook((-8, -5, -3, -1, 1, 3, 5, 8)),
    4: Codebook((-10, -8, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 7, 9)),
}
"""By bits, for weights of a normal distribution."""

OF_LAPLACE = {
    2: Codebook((-4, -1, 1, 4)),
    3: Codebook((-11, -6, -3, -1, 1, 3, 6, 11)),
    4: Codebook((-15, -10, -7, -5, -3, -2, -1, 0, 1, 2, 3, 4, 6, 8, 11, 15)),
}
"""By bits, for weights of a Laplace distribution."""


def mirrored(codebook: Codebook) -> Codebook:
    """The one with all signs changed."""
    return Codebook(tuple(-level for level in reversed(codebook.levels)))


def full(bits: int) -> Codebook:
    """The numbers of two's complement.

    >>> print(full(3))
    -4..3
    """
    return Codebook(tuple(range(-(1 << (bits - 1)), 1 << (bits - 1))))


def evenly_spaced(bits: int) -> Codebook:
    """All odd numbers below `2**bits` in magnitude.

    >>> print(evenly_spaced(2))
    -3, -1, 1, 3
    """
    return Codebook(tuple(range(1 - (1 << bits), 1 << bits, 2)))


def codebooks_of(bits: int, kind: str) -> tuple[Codebook, ...]:
    """What a layer can choose from, the symmetric one first; at 1 bit there is no choice.

    Args:
        bits: 1 to 4.
        kind: one of `fxsnn.chip.CODEBOOKS`.
    """
    return tuple(dict.fromkeys(_family(bits, kind)))


def _family(bits: int, kind: str) -> Iterator[Codebook]:
    yield Codebook.symmetric(bits)
    if kind == SYMMETRIC or bits == 1:
        return
    given = [full(bits)]
    if kind == FREE:
        given += [evenly_spaced(bits), OF_NORMAL[bits], OF_LAPLACE[bits]]
    for one in given:
        yield from (one, mirrored(one))


def kind_of(codebook: Codebook) -> str:
    """The narrowest of `fxsnn.chip.CODEBOOKS` that has it."""
    known = (kind for kind in (SYMMETRIC, FULL) if codebook in codebooks_of(codebook.bits, kind))
    return next(known, FREE)


def fitted_codebook(weight: Tensor, bits: int, kind: str, *, per_channel: bool = True) -> Codebook:
    """The codebook of least squared error for a layer, of those of equal error the first.

    Args:
        weight: [C, ...].
        bits: 1 to 4.
        kind: one of `fxsnn.chip.CODEBOOKS`.
        per_channel: whether each output channel will have its own step, or the layer one.
    """
    given = codebooks_of(bits, kind)
    if len(given) == 1:
        return given[0]
    errors = [least_error(weight, one, per_channel=per_channel) for one in given]
    return given[errors.index(min(errors))]
