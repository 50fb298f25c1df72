"""Neurons behind a convolution of spikes, with vector instructions that numba does not know: x86 processors with AVX2.

Everything stands in one file, because numba's cache on disk compiles anew only when the file of a function has changed.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding as llvm
import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fxsnn.engine.kernels import compiled
from fxsnn.engine.planes import LANES
from fxsnn.engine.tables import CHANNELS, ENTRIES

WORDS = LANES // 2
"""Places that are computed together are two vectors of bytes; neighbours are one word."""
_VECTOR = 32
_PARTS = LANES // _VECTOR
_LOOKUP = "llvm.x86.avx2.pshuf.b"
_BYTE, _WORD, _INDEX = ir.IntType(8), ir.IntType(16), ir.IntType(64)
_BYTES, _TABLE, _WORDS = ir.VectorType(_BYTE, _VECTOR), ir.VectorType(_BYTE, ENTRIES), ir.VectorType(_WORD, 16)


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

    def variable(self, kind: ir.VectorType) -> Any:
        """A variable, 0 at first."""
        zero = _same(kind, 0)
        variable = cgutils.alloca_once(self.builder, kind)
        self.builder.store(zero, variable)
        return variable

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
def fire_places(
    typing_context: Any,
    tables: Any,
    sources: Any,
    flushes: Any,
    first_run: Any,
    last_run: Any,
    given: Any,
    given_place: Any,
    sums: Any,
    membranes: Any,
    neurons: Any,
    zero_reset: Any,
    mask: Any,
    mask_place: Any,
    spikes: Any,
    spikes_place: Any,
) -> Any:
    """One step of four channels' neurons at 64 places, from the spikes that they read.

    For each lookup k of the runs, and place p in 0..63, the index is `given[sources[k] + given_place + p]`; it chooses
    from `tables[k, c]` what is added to the weighted sum of channel c. Then, for each neuron, with the three numbers of
    its channel in `neurons`:

        membrane += factor * sum + addend;  spike where membrane >= threshold;  reset

    Args:
        typing_context: numba's.
        tables: uint8 [lookups, 4, 16]. The 8-bit sums of a run's lookups must not overflow.
        sources: int64 [lookups].
        flushes: int64, bounds of the runs of lookups.
        first_run: first run.
        last_run: last run, exclusive.
        given: uint8, one-dimensional, values 0 to 15.
        given_place: added to every index.
        sums: uint16 [4, 2, 32], written: the sums, of each channel first those at even places, then those at odd ones;
            or `None`.
        membranes: integers [4, 2, 32], rewritten: even and odd places likewise.
        neurons: integers of the same type [4, 3]: factor, addend, threshold of each channel.
        zero_reset: whether a spike sets its membrane to 0; else it takes the threshold off.
        mask: uint8; only at places where it has its lower four bits set neurons may spike.
        mask_place: where in `mask` the 64 places begin.
        spikes: uint8, written: bit c of a byte is the spike of channel c.
        spikes_place: where in `spikes` the 64 places begin.
    """
    kinds = (
        *(tables, sources, flushes, first_run, last_run, given, given_place),
        *(sums, membranes, neurons, zero_reset, mask, mask_place, spikes, spikes_place),
    )

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        program = _Program(context, builder, signature.args, arguments)
        tables, sources, flushes, given = (program.array(number) for number in (0, 1, 2, 5))
        words = _weighted_sums(program, tables, sources, flushes, arguments[3], arguments[4], given, arguments[6])
        membranes, neurons, mask, spikes = (program.array(number) for number in (8, 9, 11, 13))
        sums = None if signature.args[7] is types.none else program.array(7)
        if sums is not None:
            for place, vector in enumerate(words):
                program.store(vector, sums, place * _VECTOR)
        width = signature.args[8].dtype.bitwidth
        fired = _fire(program, words, membranes, neurons, width, arguments[10])
        for part, vector in enumerate(fired):
            offset = _INDEX(part * _VECTOR)
            allowed = program.load(mask, builder.add(arguments[12], offset), _WORDS)
            program.store(builder.and_(vector, allowed), spikes, builder.add(arguments[14], offset))
        return context.get_dummy_value()

    return types.void(*kinds), generate


def _weighted_sums(
    program: _Program, tables: Any, sources: Any, flushes: Any, first: Any, last: Any, given: Any, place: Any
) -> list[Any]:
    """16-bit sums of the lookups of some runs: [channel][even, odd][part], flattened.

    8-bit sums of two neighbouring places are one word: `whole` adds up such words, `upper` their upper bytes. The sum
    of the odd place is `upper`, and that of the even place before it `whole - 256 * upper`, modulo 2^16.
    """
    builder = program.builder
    choose = builder.module.declare_intrinsic(_LOOKUP, (), ir.FunctionType(_BYTES, [_BYTES, _BYTES]))
    both_halves = ir.Constant(ir.VectorType(ir.IntType(32), _VECTOR), [i % ENTRIES for i in range(_VECTOR)])
    totals = [program.variable(_BYTES) for _ in range(CHANNELS * _PARTS)]
    wholes = [program.variable(_WORDS) for _ in range(CHANNELS * _PARTS)]
    uppers = [program.variable(_WORDS) for _ in range(CHANNELS * _PARTS)]
    with cgutils.for_range_slice(builder, first, last, _INDEX(1), inc=True) as (run, _):
        start = program.load(flushes, program.times(run, 8), _INDEX)
        stop = program.load(flushes, program.times(builder.add(run, _INDEX(1)), 8), _INDEX)
        for total in totals:
            builder.store(_same(_BYTES, 0), total)
        with cgutils.for_range_slice(builder, start, stop, _INDEX(1), inc=True) as (lookup, _):
            source = builder.add(program.load(sources, program.times(lookup, 8), _INDEX), place)
            indices = [
                program.load(given, builder.add(source, _INDEX(_VECTOR * part)), _BYTES) for part in range(_PARTS)
            ]
            row = program.times(lookup, CHANNELS * ENTRIES)
            for channel in range(CHANNELS):
                table = program.load(tables, builder.add(row, _INDEX(ENTRIES * channel)), _TABLE)
                table = builder.shuffle_vector(table, ir.Constant(_TABLE, ir.Undefined), both_halves)
                for part in range(_PARTS):
                    total = totals[channel * _PARTS + part]
                    builder.store(builder.add(builder.load(total), builder.call(choose, [table, indices[part]])), total)
        for total, whole, upper in zip(totals, wholes, uppers, strict=True):
            word = builder.bitcast(builder.load(total), _WORDS)
            builder.store(builder.add(builder.load(whole), word), whole)
            builder.store(builder.add(builder.load(upper), builder.lshr(word, _same(_WORDS, 8))), upper)
    sums = []
    for channel in range(CHANNELS):
        parts = range(channel * _PARTS, (channel + 1) * _PARTS)
        odd = [builder.load(uppers[part]) for part in parts]
        even = [
            builder.sub(builder.load(wholes[part]), builder.shl(upper, _same(_WORDS, 8)))
            for part, upper in zip(parts, odd, strict=True)
        ]
        sums += even + odd
    return sums


def _fire(program: _Program, sums: list[Any], membranes: Any, neurons: Any, width: int, zero_reset: Any) -> list[Any]:
    """Spikes of the 64 places, [part]; membranes have so many bits, and are rewritten."""
    builder, count = program.builder, _WORDS.count
    integer, size = ir.IntType(width), width // 8
    vector = ir.VectorType(integer, count)
    to_zero = program.repeated(builder.sext(builder.trunc(zero_reset, ir.IntType(1)), integer), count)
    fired: list[Any] = [_same(_WORDS, 0)] * _PARTS
    for channel in range(CHANNELS):
        factor, addend, threshold = (
            program.repeated(program.load(neurons, (3 * channel + number) * size, integer), count)
            for number in range(3)
        )
        threshold_taken = builder.and_(threshold, builder.not_(to_zero))
        for odd in range(2):
            for part in range(_PARTS):
                number = (channel * 2 + odd) * _PARTS + part
                drive = builder.add(builder.mul(builder.zext(sums[number], vector), factor), addend)
                membrane = builder.add(program.load(membranes, number * count * size, vector), drive)
                spike = builder.icmp_signed(">=", membrane, threshold)
                reset = builder.or_(builder.and_(membrane, to_zero), threshold_taken)
                taken = builder.and_(reset, builder.sext(spike, vector))
                program.store(builder.sub(membrane, taken), membranes, number * count * size)
                bit = _same(_WORDS, 1 << (channel + 8 * odd))
                fired[part] = builder.or_(fired[part], builder.select(spike, bit, _same(_WORDS, 0)))
    return fired


@compiled
def fire_convolution(
    tables: Any,
    sources: Any,
    flushes: Any,
    blocks: Any,
    neurons: Any,
    zero_reset: Any,
    mask: Any,
    given: Any,
    membranes: Any,
    spikes: Any,
    first: Any,
    channels: Any,
    sums: Any,
    extremes: Any,
) -> None:
    """Neurons behind a convolution of spikes.

    Args:
        tables: as in `ConvolutionTables`.
        sources: int64 [lookups], where in the planes of one step the first place's index is.
        flushes: as in `ConvolutionTables`.
        blocks: as in `ConvolutionTables`.
        neurons: [groups, 4, 3], of the membranes' type: gain, leak (with what the tables' offset needs), threshold.
        zero_reset: whether a spike sets its membrane to 0.
        mask: uint8 [places], 15 where there is a neuron, else 0.
        given: uint8 [steps, groups of inputs, places of the plane].
        membranes: [groups, places / 64, 4, 2, 32], in the order of `fire_places`.
        spikes: uint8 [steps, groups, places of the plane], written from `first` on.
        first: place of the first neuron in its plane.
        channels: how many of the channels are real; the last group may have others.
        sums: uint16 [4, 2, 32], overwritten, or `None` if there are no `extremes`.
        extremes: see the module.
    """
    steps, groups, plane = spikes.shape
    given_stride = given.shape[1] * given.shape[2]
    inputs, outputs = given.reshape(-1), spikes.reshape(-1)
    before = np.empty(membranes.shape[2:], membranes.dtype)
    for block in range(groups):
        constants = neurons[block]
        for batch in range(membranes.shape[1]):
            place = batch * LANES
            state = membranes[block, batch]
            for step in range(steps):
                if extremes is not None:
                    before[:] = state
                fire_places(
                    tables,
                    sources,
                    flushes,
                    blocks[block],
                    blocks[block + 1],
                    inputs,
                    step * given_stride + place,
                    sums,
                    state,
                    constants,
                    zero_reset,
                    mask,
                    place,
                    outputs,
                    (step * groups + block) * plane + first + place,
                )
                if extremes is not None:
                    _observe(
                        sums, before, constants, mask[place : place + LANES], channels - block * CHANNELS, extremes
                    )


@compiled
def _observe(sums: Any, before: Any, constants: Any, mask: Any, channels: Any, extremes: Any) -> None:
    """Widen `extremes` by what membranes came to in a step of `fire_places`, in the first `channels` channels."""
    cast = before.dtype.type
    for channel in range(min(CHANNELS, channels)):
        for odd in range(2):
            for word in range(WORDS):
                drive = cast(sums[channel, odd, word]) * constants[channel, 0] + constants[channel, 1]
                if mask[2 * word + odd]:
                    extremes[0] = min(extremes[0], before[channel, odd, word] + drive)
                    extremes[1] = max(extremes[1], before[channel, odd, word] + drive)
