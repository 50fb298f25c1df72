"""Loops of nothing but the instructions that the CPU engine is made of: what the processor does at most.

They are compiled as the engine is, by numba. Tables stand in registers and indices come from the first cache, as tiles
do; no neuron is computed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fxsnn.engine.instructions import LOOKUPS, Amx, InstructionSet, Lookups
from fxsnn.engine.tile_code import ROW, TILE, configure, multiply_by_two, release
from fxsnn.engine.tile_codes import shapes_of_tiles
from fxsnn.engine.workspaces import aligned_bytes

_INDICES = 64
"""Vectors of indices that the loop goes through, and then begins anew."""
_ROUNDS = 20_000
_BYTE, _INDEX = ir.IntType(8), ir.IntType(64)


def best(run: Callable[[], object], repeats: int = 5) -> float:
    """Seconds of the fastest of several runs."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


@intrinsic  # type: ignore[untyped-decorator]  # numba leaves it untyped
def _look_up(typing_context: Any, how: Any, tables: Any, indices: Any, rounds: Any) -> Any:
    """A byte that depends on all lookups: two vectors of places, as many output channels as a byte has."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        kind: Lookups = signature.args[0].instance_class()
        entries, bytes_ = 1 << kind.per_byte, ir.VectorType(_BYTE, kind.vector)

        def array(number: int) -> Any:
            made = cgutils.create_struct_proxy(signature.args[number])(context, builder, arguments[number])
            return builder.bitcast(made.data, _BYTE.as_pointer())

        def loaded(data: Any, offset: Any, of: ir.Type) -> Any:
            return builder.load(builder.bitcast(builder.gep(data, [offset]), of.as_pointer()), align=1)

        choose = builder.module.declare_intrinsic(LOOKUPS[type(kind)], (), ir.FunctionType(bytes_, [bytes_, bytes_]))
        table = ir.VectorType(_BYTE, entries)
        order = ir.Constant(ir.VectorType(ir.IntType(32), kind.vector), [i % entries for i in range(kind.vector)])
        given, read = array(1), array(2)
        chosen_from = [
            builder.shuffle_vector(loaded(given, _INDEX(entries * one), table), ir.Constant(table, ir.Undefined), order)
            for one in range(kind.per_byte)
        ]
        totals = [cgutils.alloca_once_value(builder, ir.Constant(bytes_, None)) for _ in range(2 * kind.per_byte)]
        with (
            cgutils.for_range(builder, arguments[3]),
            cgutils.for_range_slice(builder, _INDEX(0), _INDEX(_INDICES), _INDEX(2), inc=True) as (vector, _),
        ):
            for part in range(2):
                place = builder.mul(builder.add(vector, _INDEX(part)), _INDEX(kind.vector))
                index = loaded(read, place, bytes_)
                for one, total in zip(chosen_from, totals[part::2], strict=True):
                    builder.store(builder.add(builder.load(total), builder.call(choose, [one, index])), total)
        found = builder.load(totals[0])
        for total in totals[1:]:
            found = builder.xor(found, builder.load(total))
        word = builder.bitcast(found, ir.VectorType(_INDEX, kind.vector // 8))
        result = builder.extract_element(word, ir.IntType(32)(0))
        for element in range(1, kind.vector // 8):
            result = builder.xor(result, builder.extract_element(word, ir.IntType(32)(element)))
        return result

    return types.int64(how, tables, indices, rounds), generate


@numba.njit(nogil=True)  # type: ignore[untyped-decorator]  # numba leaves it untyped
def _looked_up(how: Any, tables: Any, indices: Any, rounds: Any) -> Any:
    return _look_up(how, tables, indices, rounds)


@numba.njit(nogil=True)  # type: ignore[untyped-decorator]  # numba leaves it untyped
def _multiplied(shapes: Any, memory: Any, offsets: Any, codes: Any, sums: Any, rounds: Any) -> None:
    configure(shapes)
    for _ in range(rounds):
        multiply_by_two(memory, 0, TILE, ROW, offsets, codes, 0, len(offsets), sums, 0)
    release()


def rate(how: InstructionSet) -> float:
    """Billions of multiply-accumulates a second that an instruction set does at most, or stands for."""
    return _products() if isinstance(how, Amx) else _lookups(how)


def _products() -> float:
    """Of tiles, four at a time, nine products of each: a convolution of 3 x 3 with 64 channels."""
    memory, offsets, sums = aligned_bytes(2 * TILE), np.zeros(9, np.int64), np.zeros(TILE, np.int32)
    codes = aligned_bytes(len(offsets) * 2 * TILE).view(np.int8).reshape(-1, 2, TILE)
    seconds = best(lambda: _multiplied(shapes_of_tiles(16), memory, offsets, codes, sums, _ROUNDS))
    return _ROUNDS * len(offsets) * 4 * 16 * TILE / seconds / 1e9


def _lookups(how: Lookups) -> float:
    """Of lookups and additions of 8 bits."""
    random = np.random.default_rng(0)
    tables = random.integers(0, 4, how.per_byte << how.per_byte, np.uint8)
    indices = random.integers(0, 1 << how.per_byte, _INDICES * how.vector, np.uint8)
    seconds = best(lambda: _looked_up(how, tables, indices, _ROUNDS))
    return _ROUNDS * _INDICES * how.vector * how.per_byte**2 / seconds / 1e9


def copies() -> float:
    """Billions of bytes a second that a copy far larger than the caches reads and writes."""
    source = np.ones(1 << 27, np.uint8)
    target = np.ones_like(source)
    return 2 * source.nbytes / best(lambda: np.copyto(target, source)) / 1e9
