"""What the CPU engine does to the spikes of some images on a processor with a matrix unit, see `tile_code`.

A map of spikes has `BEFORE` empty places, the places of its grid, and `ROWS - 1` more. The operations say what is
computed; `tile_workspace` runs them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fxsnn.engine.lookups import Array
from fxsnn.engine.operations import Operation, Piece
from fxsnn.engine.tile_code import ROW, ROWS
from fxsnn.engine.tile_codes import Products, tiles_of

BEFORE = ROW // ROWS - 1
"""Empty places in front of a map: spikes are copied to as many places to the left at most."""
SPARE = BEFORE + ROWS - 1
"""Places of a map in addition to those of its grid: a tile may begin at the last one."""


@dataclass(frozen=True, eq=False)
class TileOperation(Operation):
    """One layer or wiring of spikes that lie in rows.

    Attributes:
        copies: the spikes of a place are followed by those of as many places less one to its right.
    """

    copies: int

    @property
    def row(self) -> int:
        """Bytes from one step to the next."""
        return -(-self.channels // ROW) * ROW

    @property
    def width(self) -> int:
        """Bytes of a copy of a place's spikes; the last ones may belong to no channel."""
        return tiles_of(self.channels) * ROWS

    def spikes(self, piece: Piece) -> Array:
        """See `Operation`."""
        begin = piece.origins[self.number] + BEFORE * piece.room * self.row
        rows = piece.memory[begin : begin + self.grid.length * piece.room * self.row]
        return rows.reshape(self.grid.length, piece.room, self.row)[:, : piece.steps].transpose(1, 2, 0)


@dataclass(frozen=True, eq=False)
class TileTerm:
    """Spikes that neurons read.

    Attributes:
        input: the operation whose spikes they are.
        row: bytes from one step to the next.
        apart: bytes from one row of a tile to the next.
        first: int64 [tiles of rows], the place whose row is the first of each.
        offsets: int64 [products], from there to the first row of a product's tile, in bytes.
        products: what is multiplied.
        gain: int64 [C].
    """

    input: int
    row: int
    apart: int
    first: Array
    offsets: Array
    products: Products
    gain: Array


@dataclass(frozen=True, eq=False)
class ImageTerm:
    """Images that neurons read, as whole numbers of 8 bits.

    Attributes:
        row: bytes from one place to the next.
        apart: bytes from one row of a tile to the next.
        first: int64 [tiles of rows], the place whose row is the first of each.
        offsets: int64 [products], from there to the first row of a product's tile, in bytes.
        products: what is multiplied.
        places: int64 [images, places of a map], where images are put.
        length: places of all maps.
        width: bytes of a copy of a place's channels.
        copies: how often they are written.
        rows: int64 [tiles of rows, 16], number of each output among those of all images; -1 for none.
    """

    row: int
    apart: int
    first: Array
    offsets: Array
    products: Products
    places: Array
    length: int
    width: int
    copies: int
    rows: Array


@dataclass(frozen=True, eq=False)
class TileLayer(TileOperation):
    """A layer with neurons.

    Attributes:
        terms: of spikes, what they add up.
        leak: of the membranes' type, [C].
        threshold: of the membranes' type, [C].
        image_gain: of sums over images, [2, C]: what they are multiplied by, and what is added then; `None` where
            images add nothing.
        image_term: how images are multiplied; `None` where PyTorch adds them up.
        tiles: int64 [tiles of rows, places of a tile], the place of each neuron; -1 for none.
        zero_reset: a spike sets its membrane to 0 whatever the network's reset is.
    """

    terms: tuple[TileTerm, ...]
    leak: Array
    threshold: Array
    image_gain: Array | None
    image_term: ImageTerm | None
    tiles: Array
    zero_reset: bool

    @cached_property
    def outputs(self) -> Array:
        """Of each neuron of the tiles its number among the places of all images; anything where there is none."""
        numbers = np.zeros(self.grid.length, np.int64)
        numbers[self.places.reshape(-1)] = np.arange(self.places.size)
        found: Array = numbers[np.maximum(self.tiles, 0)]
        return found

    @cached_property
    def empty(self) -> Array:
        """Ranges of places, from the first empty one on, that are not written wholly: int64 [ranges, 2]."""
        written = np.zeros(self.grid.length + SPARE, bool)
        written[self.places.reshape(-1) + BEFORE] = True
        whole = written.copy()
        for copy in range(1, self.copies):
            whole[:-copy] &= written[copy:]
            whole[-copy:] = False
        return np.flatnonzero(np.diff(np.concatenate([[False], ~whole, [False]]).astype(np.int8))).reshape(-1, 2)


@dataclass(frozen=True, eq=False)
class TileWiring(TileOperation):
    """Spikes put elsewhere, channel by channel.

    Attributes:
        wires: see `wire_places`.
        between: int64 [inputs], places from one image to the next.
    """

    wires: Array
    between: Array
