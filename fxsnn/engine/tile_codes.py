"""The weight codes of a layer as tiles, products of which are all zero are left out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fxsnn.engine.tables import ungrouped
from fxsnn.engine.tile_code import ROW, ROWS, TILE

_TOGETHER = 4
"""Input channels of an output channel that follow each other in a tile of codes."""


def tiles_of(channels: int) -> int:
    """Tiles of output channels; the last may be partly empty."""
    return -(-channels // ROWS)


def shapes_of_tiles(rows: int) -> NDArray[np.uint8]:
    """What the matrix unit is told: tiles of sums and of spikes have so many rows, those of codes have 16.

    The layout is that of the instruction LDTILECFG (Intel 64 and IA-32 Architectures Software Developer's Manual).
    """
    shapes = np.zeros(ROW, np.uint8)
    shapes[0] = 1  # the only palette there is
    shapes[16:32].view(np.uint16)[:] = ROW
    shapes[48:56] = (*[rows] * 6, ROWS, ROWS)
    return shapes


@dataclass(frozen=True, eq=False)
class Products:
    """What is multiplied, for one pair of tiles of output channels after the other.

    Attributes:
        codes: int8 [products, 2, bytes of a tile].
        tap: int64 [products, 2], row and column in the kernel.
        chunk: int64 [products], which 64 bytes of a row of spikes.
        bounds: int64 [pairs + 1], where the products of each pair begin.
    """

    codes: NDArray[np.int8]
    tap: NDArray[np.int64]
    chunk: NDArray[np.int64]
    bounds: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class TileCodes:
    """Weight codes of a convolution.

    Attributes:
        codes: int8 [out channels, in channels / groups, height, width].
        groups: of the convolution.
    """

    codes: NDArray[np.int8]
    groups: int
    _made: dict[int, Products] = field(default_factory=dict)

    @property
    def kernel(self) -> tuple[int, int]:
        """Height and width."""
        height, width = self.codes.shape[2:]
        return height, width

    def products(self, copies: int) -> Products:
        """The products, where spikes of a row are followed by those of `copies - 1` places to the right.

        Then as many taps in a row are one product.
        """
        if copies not in self._made:
            self._made[copies] = self._products(copies)
        return self._made[copies]

    def _products(self, copies: int) -> Products:
        full = ungrouped(self.codes, self.groups)
        outputs, inputs, height, width = full.shape
        pairs = -(-tiles_of(outputs) // 2)
        own = tiles_of(inputs) * ROWS if copies > 1 else -(-inputs // ROW) * ROW
        taps = -(-width // copies)
        laid_out = np.zeros((2 * pairs * ROWS, height, taps * copies, own), np.int8)
        laid_out[:outputs, :, :width, :inputs] = full.transpose(0, 2, 3, 1)
        rows = laid_out.reshape(2 * pairs * ROWS, height, taps, copies * own)
        chunks = -(-copies * own // ROW)
        rows = np.pad(rows, ((0, 0), (0, 0), (0, 0), (0, chunks * ROW - copies * own)))
        # [pairs, height, taps, chunks, tiles of a pair, fours of inputs, outputs of a tile, inputs of a four]
        parts = rows.reshape(pairs, 2, ROWS, height, taps, chunks, ROWS, _TOGETHER).transpose(0, 3, 4, 5, 1, 6, 2, 7)
        used = np.argwhere(parts.any(axis=(4, 5, 6, 7)))
        codes = np.ascontiguousarray(parts[tuple(used.T)]).reshape(-1, 2, TILE)
        tap = np.stack([used[:, 1], used[:, 2] * copies], axis=1)
        bounds = np.searchsorted(used[:, 0], np.arange(pairs + 1))
        return Products(codes, tap, np.ascontiguousarray(used[:, 3]), bounds.astype(np.int64))


def pooling_codes(channels: int, kernel: tuple[int, int]) -> TileCodes:
    """Codes of the sum over a window in each channel by itself."""
    return TileCodes(np.ones((channels, 1, *kernel), np.int8), channels)


def plain_codes(channels: int) -> TileCodes:
    """Codes that leave spikes as they are."""
    return pooling_codes(channels, (1, 1))


def aligned(values: NDArray[Any]) -> NDArray[Any]:
    """A copy that begins a line of the cache."""
    room = np.empty(values.nbytes + ROW, np.uint8)
    begin = -room.ctypes.data % ROW
    copied = room[begin : begin + values.nbytes].view(values.dtype).reshape(values.shape)
    copied[...] = values
    return copied
