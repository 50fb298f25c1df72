"""A convolution of spikes by table lookup: what is computed once from the weight codes.

Spikes of four channels at one place are a number from 0 to 15. The sum that they contribute to an output channel is one
of 16 constants, so that a convolution of N channels with a K x K kernel is N / 4 * K * K lookups and as many additions
of 8-bit integers, whatever the bits of the weights. A vector instruction looks up 32 or 64 places at once; some
processors take six channels at a time. (T-MAC, Wei et al. 2024, does the same with the parts exchanged: its indices are
weights, its tables come from the activations.)

Entries are unsigned: each table has its smallest entry taken off, and the sum of these is given back at the end. 8-bit
sums are added to 16-bit ones before they can overflow.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

LARGEST_BYTE_SUM = 255
LARGEST_SUM = (1 << 16) - 1
"""The largest sum of magnitudes that the 16-bit sums hold."""


def groups_of(channels: int, per_byte: int) -> int:
    """Number of groups of channels that share a byte; the last may be partly empty."""
    return -(-channels // per_byte)


def padded(values: NDArray[Any], fill: float, per_byte: int) -> NDArray[Any]:
    """`values` [C, ...] with channels of `fill` behind them, so that the last group is full."""
    missing = groups_of(len(values), per_byte) * per_byte - len(values)
    return np.concatenate([values, np.full((missing, *values.shape[1:]), fill, values.dtype)])


@dataclass(frozen=True, eq=False)
class ConvolutionTables:
    """The lookups of a convolution, those of each block of output channels in a row.

    A block has as many channels as share a byte, C of them.

    Attributes:
        tables: uint8 [lookups, C, 2^C]: for each output channel of the block what each index contributes.
        group: int64 [lookups], the group of input channels whose spikes are the index.
        tap: int64 [lookups, 2], row and column in the kernel.
        flushes: int64, where 8-bit sums have to be added to the 16-bit ones: bounds of runs of lookups.
        blocks: int64 [blocks + 1], where in `flushes` each block begins.
        offset: int64 [C * blocks], what was added to each output channel's sum to make all entries unsigned.
    """

    tables: NDArray[np.uint8]
    group: NDArray[np.int64]
    tap: NDArray[np.int64]
    flushes: NDArray[np.int64]
    blocks: NDArray[np.int64]
    offset: NDArray[np.int64]

    def __post_init__(self) -> None:
        # Kernels read them as they lie in memory, and numpy promises no order behind a transposition or an index.
        for field in fields(self):
            kind = np.uint8 if field.name == "tables" else np.int64
            object.__setattr__(self, field.name, np.ascontiguousarray(getattr(self, field.name), kind))


def _bits(per_byte: int) -> NDArray[np.int64]:
    """Which channels spike, [indices, channels]."""
    return (np.arange(1 << per_byte)[:, None] >> np.arange(per_byte)) & 1


def convolution_tables(codes: NDArray[np.int8], groups: int, per_byte: int) -> ConvolutionTables:
    """Tables for weight codes; lookups whose weights are all zero are left out.

    Args:
        codes: [out channels, in channels / groups, height, width].
        groups: of the convolution.
        per_byte: channels whose spikes share a byte.
    """
    full = padded(ungrouped(codes, groups), 0, per_byte)
    full = padded(full.swapaxes(0, 1), 0, per_byte)  # [inputs, outputs, height, width]
    inputs, outputs, height, width = full.shape
    # [blocks, input groups, height, width, outputs of a block, inputs of a group]
    weights = full.reshape(inputs // per_byte, per_byte, -1, per_byte, height, width).transpose(2, 0, 4, 5, 3, 1)
    used = np.argwhere(weights.any(axis=(4, 5)))
    looked_up = weights[tuple(used.T)]  # [lookups, outputs, inputs]
    lowest = np.minimum(looked_up, 0).sum(axis=2, dtype=np.int16)
    tables = (looked_up @ _bits(per_byte).T.astype(np.int16) - lowest[..., None]).astype(np.uint8)
    largest = np.abs(looked_up).sum(axis=2, dtype=np.int64)
    offset = np.zeros((outputs // per_byte, per_byte), np.int64)
    np.add.at(offset, used[:, 0], lowest)
    flushes, blocks = [0], [0]
    for start, end in pairwise(np.searchsorted(used[:, 0], np.arange(len(offset) + 1))):
        flushes += [start + run for run in _runs(largest[start:end])]
        blocks.append(len(flushes) - 1)
    return ConvolutionTables(tables, used[:, 1], used[:, 2:], np.array(flushes), np.array(blocks), offset.reshape(-1))


def pooling_tables(channels: int, kernel: tuple[int, int], per_byte: int) -> ConvolutionTables:
    """Tables for the sum over a window in each channel by itself: a convolution whose codes are all 1."""
    blocks = groups_of(channels, per_byte)
    tap = np.argwhere(np.ones(kernel))
    ends = _runs(np.ones((len(tap), per_byte), np.int64))
    flushes = [start * len(tap) + end for start in range(blocks) for end in ends]
    return ConvolutionTables(
        np.tile(_bits(per_byte).T.astype(np.uint8), (blocks * len(tap), 1, 1)),
        np.repeat(np.arange(blocks), len(tap)),
        np.tile(tap, (blocks, 1)),
        np.array([0, *flushes]),
        np.arange(blocks + 1) * len(ends),
        np.zeros(blocks * per_byte, np.int64),
    )


def ungrouped(codes: NDArray[Any], groups: int) -> NDArray[Any]:
    """The weight of a convolution in groups as that of one without, zeros where a group does not read a channel.

    Args:
        codes: [out channels, in channels / groups, height, width].
        groups: how many.

    Returns:
        [out channels, in channels, height, width].
    """
    outputs, inputs = len(codes) // groups, codes.shape[1]
    full = np.zeros((len(codes), inputs * groups, *codes.shape[2:]), codes.dtype)
    for number in range(groups):
        rows, columns = slice(number * outputs, (number + 1) * outputs), slice(number * inputs, (number + 1) * inputs)
        full[rows, columns] = codes[rows]
    return full


def _runs(largest: NDArray[np.int64]) -> list[int]:
    """Ends of the longest runs of lookups whose largest entries [lookups, channels] cannot overflow a byte together."""
    reached = np.concatenate([np.zeros((1, largest.shape[1]), np.int64), largest.cumsum(axis=0)])
    ends = [0]
    while ends[-1] < len(largest):
        allowed = reached[ends[-1]] + LARGEST_BYTE_SUM
        beyond = [np.searchsorted(sums, most, side="right") for sums, most in zip(reached.T, allowed, strict=True)]
        ends.append(int(min(beyond)) - 1)
    return ends[1:] or [0]
