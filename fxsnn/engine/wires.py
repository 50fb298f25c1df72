"""Wiring in the CPU engine: which rows of spikes go where.

Some channels share a byte, and those of an output's need not have shared one. So a wire takes, from bytes at equal
distances, some channels with all of them moved by so many bits, and adds them to bytes at equal distances.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fxsnn.engine.planes import Grid


def wires_of(
    numbers: NDArray[np.int64], given: Sequence[tuple[int, Grid]], target: Grid, per_byte: int
) -> NDArray[np.int64]:
    """The wires of one image, as few as are easily found.

    Args:
        numbers: int64 [C, height, width], the number of the spike that each output is, counted through the maps that
            are given, from 1 on; 0 where there is never a spike.
        given: channels and layout of these maps.
        target: layout of the outputs.
        per_byte: channels of a byte.

    Returns:
        int64 [wires, 8]: which of the maps; place of the first byte in its planes, and the distance to the next; the
        same of what is written; how many bytes; by how many bits channels move up; which of the written ones they are.
    """
    channel, row, column = np.nonzero(numbers)
    number = numbers[channel, row, column] - 1
    counts = [channels * grid.size[0] * grid.size[1] for channels, grid in given]
    starts = np.cumsum([0, *counts])
    which = np.searchsorted(starts, number, side="right") - 1
    source, read = np.zeros_like(number), np.zeros_like(number)
    for one, (_, grid) in enumerate(given):
        chosen = which == one
        read[chosen], inside = np.divmod(number[chosen] - starts[one], grid.size[0] * grid.size[1])
        source[chosen] = _places(grid, read[chosen] // per_byte, *np.divmod(inside, grid.size[1]))
    written = _places(target, channel // per_byte, row, column)
    shift, bit = channel % per_byte - read % per_byte, 1 << channel % per_byte
    return _strung(*_together(which, source, written, shift, bit), target)


def _places(
    grid: Grid, group: NDArray[np.int64], row: NDArray[np.int64], column: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Places of an image in the planes of one step."""
    places: NDArray[np.int64] = group * grid.length + grid.before + row * grid.pitch[1] + column
    return places


def _together(
    which: NDArray[np.int64],
    source: NDArray[np.int64],
    written: NDArray[np.int64],
    shift: NDArray[np.int64],
    bit: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Channels that go from one byte to another by the same shift are one; `bit` becomes which they are."""
    order = np.lexsort((shift, source, which, written))
    keys = np.stack([which, source, written, shift])[:, order]
    first = np.ones(len(order), bool)
    first[1:] = (keys[:, 1:] != keys[:, :-1]).any(axis=0)
    begins = np.flatnonzero(first)
    masks = np.bitwise_or.reduceat(bit[order], begins) if len(begins) else bit[order]
    return (*keys[:, begins], masks)


def _strung(
    which: NDArray[np.int64],
    source: NDArray[np.int64],
    written: NDArray[np.int64],
    shift: NDArray[np.int64],
    mask: NDArray[np.int64],
    target: Grid,
) -> NDArray[np.int64]:
    """Bytes at equal distances in a row become one wire."""
    group, place = np.divmod(written - target.before, target.length)
    kind = np.stack([which, shift, mask, group, place // target.pitch[1]])
    # A byte that goes to several places of a row, as in upsampling, belongs to as many wires.
    order = np.lexsort((written, source, *kind[::-1]))
    again = np.zeros(len(order), np.int64)
    again[order] = _repeats(np.concatenate([kind, source[None]])[:, order])
    order = np.lexsort((written, again, *kind[::-1]))
    kind = np.concatenate([kind, again[None]])[:, order]
    source, written = source[order], written[order]
    apart = np.stack([np.diff(source), np.diff(written)])
    joined = (kind[:, 1:] == kind[:, :-1]).all(axis=0)
    joined[1:] &= ~(joined[:-1] & (apart[:, 1:] != apart[:, :-1]).any(axis=0))
    begins = np.flatnonzero(np.concatenate([[True], ~joined])) if len(order) else order
    lengths = np.diff(np.append(begins, len(order)))
    across = np.ones((2, len(begins)), np.int64)
    longer = lengths > 1
    across[:, longer] = apart[:, begins[longer]]
    number, shifted, chosen = kind[:3, begins]
    return np.ascontiguousarray(
        np.stack([number, source[begins], across[0], written[begins], across[1], lengths, shifted, chosen], axis=1),
        np.int64,
    )


def _repeats(keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many equal columns there are in a row before each."""
    position = np.arange(keys.shape[1])
    same = np.zeros(len(position), bool)
    same[1:] = (keys[:, 1:] == keys[:, :-1]).all(axis=0)
    repeats: NDArray[np.int64] = position - np.maximum.accumulate(np.where(same, 0, position))
    return repeats
