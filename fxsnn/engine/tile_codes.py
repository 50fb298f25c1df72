"""The weight codes of a layer as tiles, products of which are all zero are left out."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

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

    def products(self, copies: int) -> Products:
        """The products, where spikes of a row are followed by those of `copies - 1` places to the right.

        Then as many taps in a row are one product.
        """
        if copies not in self._made:
            self._made[copies] = self._products(copies)
        return self._made[copies]

    def _products(self, copies: int) -> Products:
        pairs = [self._pair(begin, copies) for begin in range(0, len(self.codes), 2 * ROWS)]
        used = [np.argwhere(parts.any(axis=(3, 4, 5, 6))) for parts in pairs]
        codes = [parts[tuple(places.T)].reshape(-1, 2, TILE) for parts, places in zip(pairs, used, strict=True)]
        places = np.concatenate(used)
        tap = np.stack([places[:, 0], places[:, 1] * copies], axis=1)
        bounds = np.cumsum([0, *map(len, used)], dtype=np.int64)
        return Products(np.concatenate(codes), tap, np.ascontiguousarray(places[:, 2]), bounds)

    def _pair(self, begin: int, copies: int) -> NDArray[np.int8]:
        """The codes of a pair of tiles of output channels, whether they are zero or not.

        Args:
            begin: the first output channel.
            copies: see `products`.

        Returns:
            [height, taps, chunks, tiles, fours of inputs, outputs of a tile, inputs of a four].
        """
        outputs, own, height, width = self.codes.shape
        inputs = own * self.groups
        room = tiles_of(inputs) * ROWS if copies > 1 else -(-inputs // ROW) * ROW
        taps, chunks = -(-width // copies), -(-copies * room // ROW)
        full = np.zeros((2 * ROWS, height, taps * copies, room), np.int8)
        for output in range(begin, min(begin + 2 * ROWS, outputs)):
            first = output // (outputs // self.groups) * own
            full[output - begin, :, :width, first : first + own] = self.codes[output].transpose(1, 2, 0)
        rows = np.zeros((2 * ROWS, height, taps, chunks * ROW), np.int8)
        rows[..., : copies * room] = full.reshape(2 * ROWS, height, taps, copies * room)
        parts = rows.reshape(2, ROWS, height, taps, chunks, ROWS, _TOGETHER)
        return parts.transpose(2, 3, 4, 0, 5, 1, 6)


def pooling_codes(channels: int, kernel: tuple[int, int]) -> TileCodes:
    """Codes of the sum over a window in each channel by itself."""
    return TileCodes(np.ones((channels, 1, *kernel), np.int8), channels)
