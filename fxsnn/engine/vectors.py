"""Vector instructions for use inside numba functions: table lookups and neurons. x86 processors with AVX2."""

from __future__ import annotations

from typing import Any

import llvmlite.binding as llvm
import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fxsnn.engine.tables import CHANNELS, ENTRIES

LANES = 64
"""Places that are computed together: two vectors of bytes."""
WORDS = LANES // 2
_VECTOR = 32
_VECTORS = LANES // _VECTOR
_LOOKUP = "llvm.x86.avx2.pshuf.b"
_BYTE, _WORD, _INDEX = ir.IntType(8), ir.IntType(16), ir.IntType(64)
_BYTES, _TABLE, _WORD_VECTOR = ir.VectorType(_BYTE, _VECTOR), ir.VectorType(_BYTE, ENTRIES), ir.VectorType(_WORD, 16)


def missing() -> str:
    """Why these instructions cannot be used on this machine; "" if they can."""
    if numba.config.DISABLE_JIT:
        return "numba's compiler is switched off (NUMBA_DISABLE_JIT)"
    if not llvm.get_host_cpu_features().get("avx2", False):
        return "the processor has no AVX2"
    restricted = numba.config.CPU_NAME or not numba.config.ENABLE_AVX
    if restricted and "+avx2" not in (numba.config.CPU_FEATURES or ""):
        return "numba is told not to use AVX2 (NUMBA_CPU_NAME, NUMBA_ENABLE_AVX)"
    return ""


class _Program:
    """Writes LLVM code; offsets are in bytes."""

    def __init__(self, context: Any, builder: ir.IRBuilder, kinds: Any, arguments: Any) -> None:
        self.builder = builder
        self._context, self._kinds, self._arguments = context, kinds, arguments

    def array(self, number: int) -> Any:
        """Where the data of an array argument begin."""
        array = cgutils.create_struct_proxy(self._kinds[number])
        return self.builder.bitcast(
            array(self._context, self.builder, self._arguments[number]).data, _BYTE.as_pointer()
        )

    def at(self, array: Any, offset: Any, kind: ir.Type) -> Any:
        """A pointer into an array."""
        offset = _INDEX(offset) if isinstance(offset, int) else offset
        return self.builder.bitcast(self.builder.gep(array, [offset]), kind.as_pointer())

    def load(self, array: Any, offset: Any, kind: ir.Type) -> Any:
        """A value that need not be aligned."""
        return self.builder.load(self.at(array, offset, kind), align=1)

    def store(self, value: Any, array: Any, offset: Any) -> None:
        """Write a value that need not be aligned."""
        self.builder.store(value, self.at(array, offset, value.type), align=1)

    def times(self, value: Any, factor: int) -> Any:
        """An index times a constant."""
        return self.builder.mul(value, _INDEX(factor))

    def repeated(self, value: Any, count: int) -> Any:
        """A vector of `count` times the same value."""
        kind = ir.VectorType(value.type, count)
        first = self.builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.IntType(32)(0))
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), count), [0] * count)
        return self.builder.shuffle_vector(first, ir.Constant(kind, ir.Undefined), zeros)


def _same(kind: ir.VectorType, value: int) -> ir.Constant:
    return ir.Constant(kind, [value] * kind.count)


@intrinsic  # type: ignore[untyped-decorator]  # numba leaves it untyped
def add_lookups(
    typing_context: Any, tables: Any, sources: Any, first: Any, last: Any, spikes: Any, place: Any, sums: Any
) -> Any:
    """Add the lookups `first` to `last` of four output channels at 64 places to 16-bit sums.

    For each lookup k and place p in 0..63, the index is `spikes[sources[k] + place + p]`; it chooses from
    `tables[k, c]` what is added to output channel c.

    Args:
        typing_context: numba's.
        tables: uint8 [lookups, 4, 16].
        sources: int64 [lookups].
        first: first lookup.
        last: last lookup, exclusive.
        spikes: uint8, one-dimensional, values 0 to 15.
        place: added to every index.
        sums: uint16 [4, 2, 32]. Of each 16 bits of two neighbouring places' 8-bit sums, `sums[c, 0]` gets the whole
            word and `sums[c, 1]` the upper byte. So the sum of the odd place is `sums[c, 1, w]`, and that of the even
            place before it is `sums[c, 0, w] - 256 * sums[c, 1, w]`, modulo 2^16.
    """
    signature = types.void(tables, sources, first, last, spikes, place, sums)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        program = _Program(context, builder, signature.args, arguments)
        tables, sources, spikes, sums = (program.array(number) for number in (0, 1, 4, 6))
        first, last, place = arguments[2], arguments[3], arguments[5]
        choose = builder.module.declare_intrinsic(_LOOKUP, (), ir.FunctionType(_BYTES, [_BYTES, _BYTES]))
        both_halves = ir.Constant(ir.VectorType(ir.IntType(32), _VECTOR), [i % ENTRIES for i in range(_VECTOR)])
        totals = [cgutils.alloca_once(builder, _BYTES) for _ in range(CHANNELS * _VECTORS)]
        for total in totals:
            builder.store(_same(_BYTES, 0), total)
        with cgutils.for_range_slice(builder, first, last, _INDEX(1), inc=True) as (lookup, _):
            source = builder.add(program.load(sources, program.times(lookup, 8), _INDEX), place)
            indices = [program.load(spikes, builder.add(source, _INDEX(_VECTOR * v)), _BYTES) for v in range(_VECTORS)]
            row = program.times(lookup, CHANNELS * ENTRIES)
            for channel in range(CHANNELS):
                table = program.load(tables, builder.add(row, _INDEX(ENTRIES * channel)), _TABLE)
                table = builder.shuffle_vector(table, ir.Constant(_TABLE, ir.Undefined), both_halves)
                for v in range(_VECTORS):
                    total = totals[channel * _VECTORS + v]
                    builder.store(builder.add(builder.load(total), builder.call(choose, [table, indices[v]])), total)
        for channel in range(CHANNELS):
            for v in range(_VECTORS):
                whole = builder.bitcast(builder.load(totals[channel * _VECTORS + v]), _WORD_VECTOR)
                upper = builder.lshr(whole, _same(_WORD_VECTOR, 8))
                for half, value in enumerate((whole, upper)):
                    offset = ((channel * 2 + half) * _VECTORS + v) * _VECTOR
                    program.store(builder.add(program.load(sums, offset, _WORD_VECTOR), value), sums, offset)
        return context.get_dummy_value()

    return signature, generate


@intrinsic  # type: ignore[untyped-decorator]  # numba leaves it untyped
def fire_words(
    typing_context: Any,
    sums: Any,
    membranes: Any,
    neurons: Any,
    zero_reset: Any,
    mask: Any,
    mask_place: Any,
    spikes: Any,
    spikes_place: Any,
) -> Any:
    """One step of four channels' neurons at 64 places, from the sums of `add_lookups`.

    Args:
        typing_context: numba's.
        sums: uint16 [4, 2, 32].
        membranes: integers [4, 64]: of each channel first the even places, then the odd ones. Rewritten.
        neurons: integers of the same type [4, 3]: factor of the sum, what is added to it, threshold.
        zero_reset: whether a spike sets its membrane to 0.
        mask: uint8; only at places where it has its lower four bits set neurons may spike.
        mask_place: where in `mask` the 64 places begin.
        spikes: uint8, written: bit c of a byte is the spike of channel c.
        spikes_place: where in `spikes` the 64 places begin.
    """
    signature = types.void(sums, membranes, neurons, zero_reset, mask, mask_place, spikes, spikes_place)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        program = _Program(context, builder, signature.args, arguments)
        sums, membranes, neurons, mask, spikes = (program.array(number) for number in (0, 1, 2, 4, 6))
        to_zero, mask_place, spikes_place = (arguments[number] for number in (3, 5, 7))
        width = signature.args[1].dtype.bitwidth
        integer, size, count = ir.IntType(width), width // 8, _WORD_VECTOR.count
        vector = ir.VectorType(integer, count)
        to_zero = program.repeated(builder.trunc(to_zero, ir.IntType(1)), count)
        constants = [
            [program.repeated(program.load(neurons, (3 * c + k) * size, integer), count) for k in range(3)]
            for c in range(CHANNELS)
        ]
        for part in range(WORDS // count):
            fired = _same(_WORD_VECTOR, 0)
            for channel, (factor, addend, threshold) in enumerate(constants):
                whole, upper = (
                    program.load(sums, ((channel * 2 + half) * WORDS + part * count) * 2, _WORD_VECTOR)
                    for half in range(2)
                )
                even = builder.sub(whole, builder.shl(upper, _same(_WORD_VECTOR, 8)))
                for odd, total in enumerate((even, upper)):
                    offset = (channel * LANES + odd * WORDS + part * count) * size
                    drive = builder.add(builder.mul(builder.zext(total, vector), factor), addend)
                    membrane = builder.add(program.load(membranes, offset, vector), drive)
                    spike = builder.icmp_signed(">=", membrane, threshold)
                    taken = builder.select(spike, builder.select(to_zero, membrane, threshold), _same(vector, 0))
                    program.store(builder.sub(membrane, taken), membranes, offset)
                    bit = _same(_WORD_VECTOR, 1 << (channel + 8 * odd))
                    fired = builder.or_(fired, builder.select(spike, bit, _same(_WORD_VECTOR, 0)))
            offset = _INDEX(part * _VECTOR)
            allowed = program.load(mask, builder.add(mask_place, offset), _WORD_VECTOR)
            program.store(builder.and_(fired, allowed), spikes, builder.add(spikes_place, offset))
        return context.get_dummy_value()

    return signature, generate
