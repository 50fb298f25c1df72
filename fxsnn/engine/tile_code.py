"""Tiles are multiplied: LLVM code for processors with a matrix unit (Intel's AMX).

Spikes are bytes, those of all channels of a place and a step in a row of whole 64 bytes; the rows of all steps of a
place follow each other. So 16 rows, of one place or of neighbouring ones, are a matrix that one instruction multiplies
by the codes of 16 output channels: 16,384 products. Whatever reads spikes is such a product, a depthwise convolution or
a pooling too: products whose codes are all zero are left out.

There are eight tiles: four of sums (two of rows times two of output channels), two of spikes, two of codes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fxsnn.engine.llvm_code import BYTE, INDEX, Writer, intrinsic_of

ROWS = 16
"""Rows of a tile, and output channels of a tile of codes."""
ROW = 64
"""Bytes of a row of a tile."""
TILE = ROWS * ROW
"""Bytes of a tile."""
_SPIKES, _CODES = (4, 5), (6, 7)
"""Numbers of the tiles of spikes and of those of codes."""
WORD = ir.IntType(32)
_ELEMENTS = {
    "shapes": types.uint8,
    "memory": types.uint8,
    "offsets": types.int64,
    "codes": types.int8,
    "sums": types.int32,
    **dict.fromkeys(("membranes", "gains", "neurons", "drive", "extremes")),
}
"""What must be in arrays whose memory is read as it lies; `None` for the type of the membranes."""


class TileWriter(Writer):
    """Writes LLVM code; offsets are in bytes."""

    def call(self, name: str, *values: Any) -> None:
        """An instruction of the matrix unit."""
        kind = ir.FunctionType(ir.VoidType(), [value.type for value in values])
        self.builder.call(cgutils.get_or_insert_function(self.builder.module, kind, f"llvm.x86.{name}"), values)

    def plus(self, *values: Any) -> Any:
        """A sum of indices."""
        total = values[0]
        for value in values[1:]:
            total = self.builder.add(total, value)
        return total


def tile_intrinsic(
    parameters: Mapping[str, Any], write: Callable[[TileWriter], None]
) -> tuple[Any, Callable[..., Any]]:
    """See `intrinsic_of`."""
    return intrinsic_of(parameters, _ELEMENTS, TileWriter, write)


@intrinsic  # type: ignore[untyped-decorator]  # numba leaves it untyped
def configure(typing_context: Any, shapes: Any) -> Any:
    """Tell the matrix unit, for this thread, how large tiles are; `release` has to follow.

    Args:
        typing_context: numba's.
        shapes: uint8 [64], see `shapes_of_tiles`.
    """
    parameters = {**locals()}
    return tile_intrinsic(parameters, lambda writer: writer.call("ldtilecfg", writer.array("shapes")))


@intrinsic  # type: ignore[untyped-decorator]  # numba leaves it untyped
def release(typing_context: Any) -> Any:
    """The matrix unit is not used further by this thread."""
    parameters = {**locals()}
    return tile_intrinsic(parameters, lambda writer: writer.call("tilerelease"))


def _multiplying(parameters: dict[str, Any], columns: int) -> tuple[Any, Callable[..., Any]]:
    """See `multiply_by_two`; with so many tiles of output channels."""

    def write(writer: TileWriter) -> None:
        builder, factors = writer.builder, range(columns)
        sums = list(itertools.product(range(2), factors))
        for row, column in sums:
            writer.call("tilezero", BYTE(2 * row + column))
        with cgutils.for_range_slice(builder, writer["begin"], writer["end"], INDEX(1), inc=True) as (one, _):
            offset = writer.load(writer.array("offsets"), writer.times(one, 8), INDEX)
            for column in factors:
                place = writer.times(one, 2 * TILE)
                code = writer.at(writer.array("codes"), writer.plus(place, INDEX(column * TILE)))
                writer.call("tileloadd64", BYTE(_CODES[column]), code, INDEX(ROW))
            for row, first in enumerate(("upper", "lower")):
                spikes = writer.at(writer.array("memory"), writer.plus(writer[first], offset))
                writer.call("tileloadd64", BYTE(_SPIKES[row]), spikes, writer["apart"])
                for column in factors:
                    writer.call("tdpbssd", BYTE(2 * row + column), BYTE(_SPIKES[row]), BYTE(_CODES[column]))
        for row, column in sums:
            place = writer.plus(writer["sums_place"], INDEX((2 * row + column) * TILE))
            writer.call("tilestored64", BYTE(2 * row + column), writer.at(writer.array("sums"), place), INDEX(ROW))

    return tile_intrinsic(parameters, write)


@intrinsic  # type: ignore[untyped-decorator]  # numba leaves it untyped
def multiply_by_two(
    typing_context: Any,
    memory: Any,
    upper: Any,
    lower: Any,
    apart: Any,
    offsets: Any,
    codes: Any,
    begin: Any,
    end: Any,
    sums: Any,
    sums_place: Any,
) -> Any:
    """Two tiles of rows times two tiles of output channels, added up over some products.

    Args:
        typing_context: numba's.
        memory: uint8, one-dimensional, in which spikes lie.
        upper: where the first row of the one tile begins.
        lower: where that of the other one begins.
        apart: from one row to the next.
        offsets: int64 [products], added to where both begin.
        codes: int8 [products, 2, bytes of a tile]: four input channels of each output channel follow each other.
        begin: first product.
        end: last product, exclusive.
        sums: int32, one-dimensional, written: four tiles, rows of output channels.
        sums_place: where they begin, in bytes.
    """
    return _multiplying({**locals()}, 2)


@intrinsic  # type: ignore[untyped-decorator]  # numba leaves it untyped
def multiply_by_one(
    typing_context: Any,
    memory: Any,
    upper: Any,
    lower: Any,
    apart: Any,
    offsets: Any,
    codes: Any,
    begin: Any,
    end: Any,
    sums: Any,
    sums_place: Any,
) -> Any:
    """As `multiply_by_two`, by the first tile of output channels alone."""
    return _multiplying({**locals()}, 1)
