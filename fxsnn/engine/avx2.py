"""Neurons in time, with vector instructions that numba does not know or does not find, for x86 processors with AVX2.

Places are computed in runs of 64. What there is of each neuron of a run (its membrane, its drive) lies in memory in the
order in which vectors come out of the lookups, see `order_in_run`.

Everything stands in one file, because numba's cache on disk compiles anew only when the file of a function has changed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import llvmlite.binding as llvm
import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.extending import intrinsic
from numpy.typing import NDArray

from fxsnn.engine.kernels import compiled
from fxsnn.engine.planes import LANES
from fxsnn.engine.tables import CHANNELS, ENTRIES

_Drive = Callable[[int, int, int, int], Any]

_VECTOR = 32
_PARTS = LANES // _VECTOR
_TAKEN = 8
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


_ELEMENTS = {
    **dict.fromkeys(("tables", "given", "plain", "mask", "spikes", "source", "target"), types.uint8),
    **dict.fromkeys(("sources", "flushes"), types.int64),
}
"""What must be in arrays whose memory is read as it lies."""
_ALIKE = ("membranes", "neurons", "reached", "drive", "base", "gains")
"""Arrays whose elements must be of one type."""


def _signature(names: Iterable[str], kinds: Iterable[Any]) -> Any:
    """The signature of an intrinsic: its arrays are read as they lie in memory, so any other order or type is refused.

    Raises:
        TypingError: an array is not in C order, or its elements are of another type.
    """
    given: dict[str, Any] = dict(zip(names, kinds, strict=True))
    alike = next((given[name].dtype for name in ("membranes", "drive") if name in given), None)
    for name, kind in given.items():
        if not isinstance(kind, types.Array):
            continue
        wanted = alike if name in _ALIKE else _ELEMENTS[name]
        if kind.layout != "C" or kind.dtype != wanted:
            raise TypingError(f"{name} is {kind}; expected is an array of {wanted} in C order")
    return types.void(*kinds)


class _Program:
    """Writes LLVM code; offsets are in bytes.

    Args:
        context: numba's.
        builder: of the function.
        arguments: of the function, by name: numba's type and LLVM's value.
    """

    def __init__(self, context: Any, builder: ir.IRBuilder, arguments: dict[str, tuple[Any, Any]]) -> None:
        self.builder = builder
        self._context, self._arguments = context, arguments

    def __getitem__(self, name: str) -> Any:
        """The value of an argument."""
        return self._arguments[name][1]

    def given(self, name: str) -> bool:
        """Whether an argument is anything but `None`."""
        return self._arguments[name][0] is not types.none

    def array(self, name: str) -> Any:
        """Where the data of an array argument begin."""
        kind, value = self._arguments[name]
        array = cgutils.create_struct_proxy(kind)(self._context, self.builder, value)
        return self.builder.bitcast(array.data, _BYTE.as_pointer())

    def numbers(self, name: str) -> _Numbers:
        """What the elements of an array argument are."""
        return _Numbers(self._context.get_data_type(self._arguments[name][0].dtype))

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


class _Numbers:
    """Vectors of membranes: integers of 32 or 64 bits, or floating point.

    Args:
        kind: of an element.
    """

    def __init__(self, kind: ir.Type) -> None:
        self.kind = kind
        self.real = isinstance(kind, ir.DoubleType)
        self.bits = 64 if self.real else kind.width
        self.bytes = self.bits // 8
        self.shares = self.bits // _WORD.width
        """As many of these vectors as there are in one of 16-bit words."""
        self.vector = ir.VectorType(kind, _VECTOR // self.bytes)
        self.integers = ir.VectorType(ir.IntType(self.bits), self.vector.count)

    def step(self, builder: ir.IRBuilder, membrane: Any, drive: Any, threshold: Any, *, to_zero: bool) -> Any:
        """Membranes with the drive, and behind the reset; all bits set where there is a spike."""
        add, sub = (builder.fadd, builder.fsub) if self.real else (builder.add, builder.sub)
        compare = builder.fcmp_ordered if self.real else builder.icmp_signed
        reached = add(membrane, drive)
        spike = compare(">=", reached, threshold)
        taken = builder.select(spike, reached if to_zero else threshold, _same(self.vector, 0))
        return reached, sub(reached, taken), builder.sext(spike, self.integers)


def _same(kind: ir.VectorType, value: int) -> ir.Constant:
    return ir.Constant(kind, [value] * kind.count)


def _vector_of(place: int, shares: int) -> tuple[int, int]:
    """In which vector of a run the neuron at a place is, and which element of it.

    8-bit sums of two neighbouring places come as one word, those of even places are taken off first; then a vector of
    words is shared out to `shares` vectors of membranes, the first of which takes every `shares`-th word from the
    first.
    """
    part, byte = divmod(place, _VECTOR)
    word, odd = divmod(byte, 2)
    element, share = divmod(word, shares)
    return (odd * _PARTS + part) * shares + share, element


def order_in_run(kind: np.dtype[Any]) -> NDArray[np.int64]:
    """Where the neuron at each of 64 places is among those of a run and a channel, if they have that type."""
    shares = kind.itemsize // 2
    found = [_vector_of(place, shares) for place in range(LANES)]
    return np.array([vector * (_VECTOR // kind.itemsize) + element for vector, element in found])


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
    drive: Any,
    plain: Any,
    plain_place: Any,
    gains: Any,
    membranes: Any,
    neurons: Any,
    zero_reset: Any,
    reached: Any,
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

    With `drive`, its elements take the place of the addend, and with `plain` these spikes are added, too, each times
    the gain of its channel.

    Args:
        typing_context: numba's.
        tables: uint8 [lookups, 4, 16]. The 8-bit sums of a run's lookups must not overflow.
        sources: int64 [lookups].
        flushes: int64, bounds of the runs of lookups.
        first_run: first run.
        last_run: last run, exclusive.
        given: uint8, one-dimensional, values 0 to 15.
        given_place: added to every index.
        drive: like `membranes`, or `None`.
        plain: uint8, one-dimensional, bit c of a byte is a spike that channel c reads; or `None`.
        plain_place: where in it the 64 places begin.
        gains: of the membranes' type [4]; or `None`.
        membranes: integers [4, 64] in the order of a run, rewritten.
        neurons: integers of the same type [4, 3]: factor, addend, threshold of each channel.
        zero_reset: whether a spike sets its membrane to 0; else it takes the threshold off.
        reached: like `membranes`, written: what these came to before the reset; or `None`.
        mask: uint8; only at places where it has its lower four bits set neurons may spike.
        mask_place: where in `mask` the 64 places begin.
        spikes: uint8, written: bit c of a byte is the spike of channel c.
        spikes_place: where in `spikes` the 64 places begin.
    """
    kinds = (
        *(tables, sources, flushes, first_run, last_run, given, given_place),
        *(drive, plain, plain_place, gains),
        *(membranes, neurons, zero_reset, reached, mask, mask_place, spikes, spikes_place),
    )
    names = (
        *("tables", "sources", "flushes", "first_run", "last_run", "given", "given_place"),
        *("drive", "plain", "plain_place", "gains"),
        *("membranes", "neurons", "zero_reset", "reached", "mask", "mask_place", "spikes", "spikes_place"),
    )

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        program = _Program(context, builder, dict(zip(names, zip(signature.args, arguments, strict=True), strict=True)))
        numbers = program.numbers("membranes")
        weighted = _drives(program, numbers)

        def driven(channel: int, odd: int, part: int, share: int) -> Any:
            if not program.given("drive"):
                return builder.add(weighted(channel, odd, part, share), _constant(program, numbers, channel, 1))
            before = program.load(program.array("drive"), _offset(numbers, channel, odd, part, share), numbers.vector)
            if program.given("plain"):
                before = builder.add(before, _as_they_are(program, numbers, "plain", channel, odd, part, share))
            return builder.add(weighted(channel, odd, part, share), before)

        _fire(program, numbers, driven)
        return context.get_dummy_value()

    return _signature(names, kinds), generate


@intrinsic  # type: ignore[untyped-decorator]  # numba leaves it untyped
def add_places(
    typing_context: Any,
    tables: Any,
    sources: Any,
    flushes: Any,
    first_run: Any,
    last_run: Any,
    given: Any,
    given_place: Any,
    base: Any,
    neurons: Any,
    drive: Any,
) -> Any:
    """What one of several inputs adds to the drives of four channels' neurons at 64 places.

        drive = base + factor * sum

    with the sums of `fire_places`.

    Args:
        typing_context: numba's.
        tables: as in `fire_places`.
        sources: as in `fire_places`.
        flushes: as in `fire_places`.
        first_run: as in `fire_places`.
        last_run: as in `fire_places`.
        given: as in `fire_places`.
        given_place: as in `fire_places`.
        base: integers [4, 64] in the order of a run.
        neurons: as in `fire_places`; only the factors count.
        drive: like `base`, written; it may be `base` itself.
    """
    kinds = (tables, sources, flushes, first_run, last_run, given, given_place, base, neurons, drive)
    names = (
        *("tables", "sources", "flushes", "first_run", "last_run", "given", "given_place"),
        *("base", "neurons", "drive"),
    )

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        program = _Program(context, builder, dict(zip(names, zip(signature.args, arguments, strict=True), strict=True)))
        numbers = program.numbers("drive")
        weighted = _drives(program, numbers)
        for channel, odd, part in itertools.product(range(CHANNELS), range(2), range(_PARTS)):
            for share in range(numbers.shares):
                offset = _offset(numbers, channel, odd, part, share)
                before = program.load(program.array("base"), offset, numbers.vector)
                program.store(builder.add(before, weighted(channel, odd, part, share)), program.array("drive"), offset)
        return context.get_dummy_value()

    return _signature(names, kinds), generate


@intrinsic  # type: ignore[untyped-decorator]  # numba leaves it untyped
def add_spikes(
    typing_context: Any,
    given: Any,
    given_place: Any,
    base: Any,
    gains: Any,
    drive: Any,
) -> Any:
    """What spikes add as they are to the drives of four channels' neurons at 64 places.

        drive = base + gain * spike

    Args:
        typing_context: numba's.
        given: as in `fire_places`.
        given_place: where in `given` the 64 places begin; bit c is what channel c reads.
        base: integers [4, 64] in the order of a run.
        gains: integers of the same type [4].
        drive: like `base`, written; it may be `base` itself.
    """
    kinds, names = (given, given_place, base, gains, drive), ("given", "given_place", "base", "gains", "drive")

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        program = _Program(context, builder, dict(zip(names, zip(signature.args, arguments, strict=True), strict=True)))
        numbers = program.numbers("drive")
        for part, channel, odd in itertools.product(range(_PARTS), range(CHANNELS), range(2)):
            for share in range(numbers.shares):
                offset = _offset(numbers, channel, odd, part, share)
                before = program.load(program.array("base"), offset, numbers.vector)
                added = _as_they_are(program, numbers, "given", channel, odd, part, share)
                program.store(builder.add(before, added), program.array("drive"), offset)
        return context.get_dummy_value()

    return _signature(names, kinds), generate


@intrinsic  # type: ignore[untyped-decorator]  # numba leaves it untyped
def fire_driven_places(
    typing_context: Any,
    drive: Any,
    membranes: Any,
    neurons: Any,
    zero_reset: Any,
    reached: Any,
    mask: Any,
    mask_place: Any,
    spikes: Any,
    spikes_place: Any,
) -> Any:
    """One step of four channels' neurons at 64 places: `fire_places` with drives that are known.

    Args:
        typing_context: numba's.
        drive: of the membranes' type, [4, 64] in the order of a run.
        membranes: integers or float64 [4, 64] in that order, rewritten.
        neurons: as in `fire_places`; only the thresholds count.
        zero_reset: as in `fire_places`.
        reached: as in `fire_places`.
        mask: as in `fire_places`.
        mask_place: as in `fire_places`.
        spikes: as in `fire_places`.
        spikes_place: as in `fire_places`.
    """
    kinds = (drive, membranes, neurons, zero_reset, reached, mask, mask_place, spikes, spikes_place)
    names = ["drive", "membranes", "neurons", "zero_reset", "reached", "mask", "mask_place", "spikes", "spikes_place"]

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        program = _Program(context, builder, dict(zip(names, zip(signature.args, arguments, strict=True), strict=True)))
        numbers, drives = program.numbers("membranes"), program.array("drive")

        def driven(channel: int, odd: int, part: int, share: int) -> Any:
            return program.load(drives, _offset(numbers, channel, odd, part, share), numbers.vector)

        _fire(program, numbers, driven)
        return context.get_dummy_value()

    return _signature(names, kinds), generate


def _drives(program: _Program, numbers: _Numbers) -> _Drive:
    """Factor times weighted sum of the places of a run."""
    builder, sums = program.builder, _weighted_sums(program)
    low = _same(numbers.integers, (1 << _WORD.width) - 1)

    def weighted(channel: int, odd: int, part: int, share: int) -> Any:
        words = builder.bitcast(sums[(channel * 2 + odd) * _PARTS + part], numbers.integers)
        shift = _same(numbers.integers, share * _WORD.width)
        return builder.mul(builder.and_(builder.lshr(words, shift), low), _constant(program, numbers, channel, 0))

    return weighted


def _weighted_sums(program: _Program) -> list[Any]:
    """16-bit sums of the lookups of some runs: [channel][even, odd][part], flattened.

    8-bit sums of two neighbouring places are one word: `whole` adds up such words, `upper` their upper bytes. The sum
    of the odd place is `upper`, and that of the even place before it `whole - 256 * upper`, modulo 2^16.
    """
    builder = program.builder
    tables, sources, flushes, given = (program.array(name) for name in ("tables", "sources", "flushes", "given"))
    choose = builder.module.declare_intrinsic(_LOOKUP, (), ir.FunctionType(_BYTES, [_BYTES, _BYTES]))
    both_halves = ir.Constant(ir.VectorType(ir.IntType(32), _VECTOR), [i % ENTRIES for i in range(_VECTOR)])
    totals = [program.variable(_BYTES) for _ in range(CHANNELS * _PARTS)]
    wholes = [program.variable(_WORDS) for _ in range(CHANNELS * _PARTS)]
    uppers = [program.variable(_WORDS) for _ in range(CHANNELS * _PARTS)]
    runs = cgutils.for_range_slice(builder, program["first_run"], program["last_run"], _INDEX(1), inc=True)
    with runs as (run, _):
        start = program.load(flushes, program.times(run, 8), _INDEX)
        stop = program.load(flushes, program.times(builder.add(run, _INDEX(1)), 8), _INDEX)
        for total in totals:
            builder.store(_same(_BYTES, 0), total)
        with cgutils.for_range_slice(builder, start, stop, _INDEX(1), inc=True) as (lookup, _):
            source = builder.add(program.load(sources, program.times(lookup, 8), _INDEX), program["given_place"])
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


def _constant(program: _Program, numbers: _Numbers, channel: int, number: int) -> Any:
    """A vector of one of a channel's three numbers."""
    value = program.load(program.array("neurons"), (3 * channel + number) * numbers.bytes, numbers.kind)
    return program.repeated(value, numbers.vector.count)


def _offset(numbers: _Numbers, channel: int, odd: int, part: int, share: int) -> int:
    """Where a vector of membranes is among those of a run."""
    return (((channel * 2 + odd) * _PARTS + part) * numbers.shares + share) * _VECTOR


def _spike(numbers: _Numbers, channel: int, odd: int, share: int) -> ir.Constant:
    """Where in the bytes of a half of a run the spikes of a vector of membranes are."""
    return _same(numbers.integers, 1 << (channel + 8 * odd + _WORD.width * share))


def _as_they_are(program: _Program, numbers: _Numbers, name: str, channel: int, odd: int, part: int, share: int) -> Any:
    """A vector of what spikes of the argument of that name add, each times its channel's gain."""
    builder = program.builder
    place = builder.add(program[f"{name}_place"], _INDEX(_VECTOR * part))
    spikes = program.load(program.array(name), place, numbers.integers)
    there = builder.and_(spikes, _spike(numbers, channel, odd, share))
    gain = program.repeated(
        program.load(program.array("gains"), channel * numbers.bytes, numbers.kind), numbers.vector.count
    )
    spike = builder.icmp_unsigned("!=", there, _same(numbers.integers, 0))
    return builder.select(spike, gain, _same(numbers.vector, 0))


def _fire(program: _Program, numbers: _Numbers, drive: _Drive) -> None:
    """Neurons of 64 places and four channels take a step.

    Args:
        program: with the arguments that both kinds of layers have.
        numbers: what the membranes are.
        drive: gives a vector of drives: of a channel, at even or odd places, of a half of the run, share of its words.
    """
    builder = program.builder
    mask, spikes = program.array("mask"), program.array("spikes")
    flag = builder.trunc(program["zero_reset"], ir.IntType(1))
    with builder.if_else(flag) as branches:  # two programs, so that neither has to ask at every neuron
        for branch, to_zero in zip(branches, (True, False), strict=True):
            with branch:
                for part in range(_PARTS):
                    fired = builder.bitcast(_fire_part(program, numbers, drive, part, to_zero=to_zero), _WORDS)
                    offset = _INDEX(part * _VECTOR)
                    allowed = program.load(mask, builder.add(program["mask_place"], offset), _WORDS)
                    program.store(builder.and_(fired, allowed), spikes, builder.add(program["spikes_place"], offset))


def _fire_part(program: _Program, numbers: _Numbers, drive: _Drive, part: int, *, to_zero: bool) -> Any:
    """Spikes of half a run; membranes are rewritten."""
    builder, membranes = program.builder, program.array("membranes")
    fired = _same(numbers.integers, 0)
    for channel in range(CHANNELS):
        threshold = _constant(program, numbers, channel, 2)
        for odd in range(2):
            for share in range(numbers.shares):
                offset = _offset(numbers, channel, odd, part, share)
                before = program.load(membranes, offset, numbers.vector)
                reached, after, spike = numbers.step(
                    builder, before, drive(channel, odd, part, share), threshold, to_zero=to_zero
                )
                if program.given("reached"):
                    program.store(reached, program.array("reached"), offset)
                program.store(after, membranes, offset)
                fired = builder.or_(fired, builder.and_(spike, _spike(numbers, channel, odd, share)))
    return fired


@compiled
def fire_convolution(
    tables: Any,
    sources: Any,
    flushes: Any,
    blocks: Any,
    neurons: Any,
    starts: Any,
    fresh: Any,
    zero_reset: Any,
    mask: Any,
    given: Any,
    membranes: Any,
    runs: Any,
    spikes: Any,
    first: Any,
    observed: Any,
    reached: Any,
    extremes: Any,
) -> None:
    """Neurons behind a convolution of spikes.

    Args:
        tables: as in `ConvolutionTables`.
        sources: int64 [lookups], where in the planes of one step the first place's index is.
        flushes: as in `ConvolutionTables`.
        blocks: as in `ConvolutionTables`.
        neurons: [groups, 4, 3], of the membranes' type: gain, leak (with what the tables' offset needs), threshold.
        starts: [groups, 4], of that type: where membranes start.
        fresh: whether they start now.
        zero_reset: whether a spike sets its membrane to 0.
        mask: uint8 [places], 15 where there is a neuron, else 0.
        given: uint8 [steps, groups of inputs, places of the plane].
        membranes: [groups, runs of places, 4, 64] in the order of a run. If these steps are all there are, one run's
            room is enough.
        runs: runs of places.
        spikes: uint8 [steps, groups, places of the plane], written from `first` on.
        first: place of the first neuron in its plane.
        observed: bool [groups, 4, places] in the order of a run, the neurons that there are; or `None`.
        reached: [4, 64], of the membranes' type, overwritten; or `None`.
        extremes: see `fxsnn.engine.kernels`; or `None`, and then the two before it too.
    """
    steps, groups, plane = spikes.shape
    given_stride = given.shape[1] * given.shape[2]
    inputs, outputs = given.reshape(-1), spikes.reshape(-1)
    # What a run of places reads in one step stays in the first cache, and serves all channels.
    for run in range(runs):
        place, kept = run * LANES, min(run, membranes.shape[1] - 1)
        if fresh:
            _start(membranes, kept, starts)
        for step in range(steps):
            for block in range(groups):
                fire_places(
                    tables,
                    sources,
                    flushes,
                    blocks[block],
                    blocks[block + 1],
                    inputs,
                    step * given_stride + place,
                    None,
                    None,
                    0,
                    None,
                    membranes[block, kept],
                    neurons[block],
                    zero_reset,
                    reached,
                    mask,
                    place,
                    outputs,
                    (step * groups + block) * plane + first + place,
                )
                if extremes is not None:
                    _observe(reached, observed[block, :, place : place + LANES], extremes)


@compiled
def fire_sum(
    tables: Any,
    sources: Any,
    flushes: Any,
    blocks: Any,
    neurons: Any,
    memory: Any,
    origins: Any,
    strides: Any,
    plain: Any,
    gains: Any,
    leaks: Any,
    constant: Any,
    places: Any,
    starts: Any,
    fresh: Any,
    zero_reset: Any,
    mask: Any,
    membranes: Any,
    runs: Any,
    spikes: Any,
    first: Any,
    observed: Any,
    reached: Any,
    extremes: Any,
) -> None:
    """Neurons that add up several inputs: convolutions of spikes, one at least, and spikes as they are.

    Args:
        tables: as in `ConvolutionTables`, those of all convolutions.
        sources: int64 [lookups], where in the planes of one step of its input the first place's index is.
        flushes: as in `ConvolutionTables`, those of all convolutions.
        blocks: int64 [convolutions, groups + 1], where in `flushes` each block of each convolution begins.
        neurons: [convolutions, groups, 4, 3], of the membranes' type: gain of the convolution, a number that does not
            count, threshold.
        memory: uint8, one-dimensional, in which all that is read is.
        origins: int64 [convolutions], where in it the planes that they read begin.
        strides: int64 [convolutions], how far these are from one step to the next.
        plain: int64 [inputs, 3], of spikes that are added as they are: where in `memory` the first place is, and how
            far it is from one step and from one group to the next.
        gains: [inputs, groups, 4], of the membranes' type, what these add; `None` where there are none.
        leaks: [groups, 4], of that type: leak, with what the tables' offsets need.
        constant: what is added at every step beside that, [images, channels, outputs]; or `None`.
        places: as `sources` of `fire_constant`, for `constant`; or `None`.
        starts: as in `fire_convolution`.
        fresh: as in `fire_convolution`.
        zero_reset: as in `fire_convolution`.
        mask: as in `fire_convolution`.
        membranes: as in `fire_convolution`.
        runs: as in `fire_convolution`.
        spikes: as in `fire_convolution`.
        first: as in `fire_convolution`.
        observed: as in `fire_convolution`.
        reached: as in `fire_convolution`.
        extremes: as in `fire_convolution`.
    """
    steps, groups, plane = spikes.shape
    last, others = len(origins) - 1, len(plain) - 1
    outputs = spikes.reshape(-1)
    cast = membranes.dtype.type
    drives = np.empty((groups + 1, CHANNELS, LANES), membranes.dtype)  # what is constant, and the drive in the making
    for run in range(runs):
        place, kept = run * LANES, min(run, membranes.shape[1] - 1)
        if fresh:
            _start(membranes, kept, starts)
        if constant is not None or run == 0:
            for block in range(groups):
                for channel in range(CHANNELS):
                    drives[block, channel, :] = leaks[block, channel]
                    number = block * CHANNELS + channel
                    if constant is not None and number < constant.shape[1]:
                        given, offset = constant.reshape(-1), np.uint64(number * constant.shape[2])
                        for i in range(LANES):
                            drives[block, channel, i] += cast(given[places[run, i] + offset])
        for step in range(steps):
            for block in range(groups):
                made = block
                if gains is not None:
                    for one in range(others):
                        add_spikes(
                            memory,
                            plain[one, 0] + step * plain[one, 1] + block * plain[one, 2] + place,
                            drives[made],
                            gains[one, block],
                            drives[groups],
                        )
                        made = groups
                for one in range(last):
                    add_places(
                        tables,
                        sources,
                        flushes,
                        blocks[one, block],
                        blocks[one, block + 1],
                        memory,
                        origins[one] + step * strides[one] + place,
                        drives[made],
                        neurons[one, block],
                        drives[groups],
                    )
                    made = groups
                if gains is None:
                    fire_places(
                        tables,
                        sources,
                        flushes,
                        blocks[last, block],
                        blocks[last, block + 1],
                        memory,
                        origins[last] + step * strides[last] + place,
                        drives[made],
                        None,
                        0,
                        None,
                        membranes[block, kept],
                        neurons[last, block],
                        zero_reset,
                        reached,
                        mask,
                        place,
                        outputs,
                        (step * groups + block) * plane + first + place,
                    )
                else:
                    fire_places(
                        tables,
                        sources,
                        flushes,
                        blocks[last, block],
                        blocks[last, block + 1],
                        memory,
                        origins[last] + step * strides[last] + place,
                        drives[made],
                        memory,
                        plain[others, 0] + step * plain[others, 1] + block * plain[others, 2] + place,
                        gains[others, block],
                        membranes[block, kept],
                        neurons[last, block],
                        zero_reset,
                        reached,
                        mask,
                        place,
                        outputs,
                        (step * groups + block) * plane + first + place,
                    )
                if extremes is not None:
                    _observe(reached, observed[block, :, place : place + LANES], extremes)


@compiled
def fire_constant(
    sums: Any,
    sources: Any,
    neurons: Any,
    starts: Any,
    fresh: Any,
    zero_reset: Any,
    mask: Any,
    membranes: Any,
    runs: Any,
    spikes: Any,
    first: Any,
    observed: Any,
    reached: Any,
    extremes: Any,
) -> None:
    """Neurons under a drive that does not change.

    Args:
        sums: weighted sums, [images, channels, outputs]; whole numbers in a floating type, unless the input is analog.
        sources: uint64 [runs of places, 64] in the order of a run, where among the sums that of the first channel is;
            anything where there is no neuron.
        neurons: as in `fire_convolution`; the drive is sum * gain + leak.
        starts: as in `fire_convolution`.
        fresh: as in `fire_convolution`.
        zero_reset: as in `fire_convolution`.
        mask: as in `fire_convolution`.
        membranes: as in `fire_convolution`; integers or float64.
        runs: as in `fire_convolution`.
        spikes: as in `fire_convolution`.
        first: as in `fire_convolution`.
        observed: as in `fire_convolution`.
        reached: as in `fire_convolution`.
        extremes: as in `fire_convolution`.
    """
    steps, groups, plane = spikes.shape
    channels, spread = sums.shape[1], sums.shape[2]
    given, outputs = sums.reshape(-1), spikes.reshape(-1)
    cast = membranes.dtype.type
    drive = np.zeros((CHANNELS, LANES), membranes.dtype)
    for run in range(runs):
        place, kept = run * LANES, min(run, membranes.shape[1] - 1)
        if fresh:
            _start(membranes, kept, starts)
        for block in range(groups):
            for channel in range(min(CHANNELS, channels - block * CHANNELS)):
                gain, leak = neurons[block, channel, 0], neurons[block, channel, 1]
                offset = np.uint64((block * CHANNELS + channel) * spread)
                for i in range(LANES):
                    drive[channel, i] = cast(given[sources[run, i] + offset]) * gain + leak
            for step in range(steps):
                fire_driven_places(
                    drive,
                    membranes[block, kept],
                    neurons[block],
                    zero_reset,
                    reached,
                    mask,
                    place,
                    outputs,
                    (step * groups + block) * plane + first + place,
                )
                if extremes is not None:
                    _observe(reached, observed[block, :, place : place + LANES], extremes)


@compiled
def _start(membranes: Any, run: Any, starts: Any) -> None:
    """Set the membranes of a run of places to where they start."""
    for block in range(len(starts)):
        for channel in range(CHANNELS):
            membranes[block, run, channel, :] = starts[block, channel]


@compiled
def _observe(reached: Any, observed: Any, extremes: Any) -> None:
    """Widen `extremes` by what the observed membranes came to."""
    for channel in range(CHANNELS):
        for i in range(LANES):
            if observed[channel, i]:
                extremes[0] = min(extremes[0], reached[channel, i])
                extremes[1] = max(extremes[1], reached[channel, i])


@intrinsic  # type: ignore[untyped-decorator]  # numba leaves it untyped
def take_every_second(typing_context: Any, source: Any, begin: Any, target: Any, written: Any) -> Any:
    """Copy `source[begin], source[begin + 2], ...` to `target[written], target[written + 1], ...`: eight bytes.

    Args:
        typing_context: numba's.
        source: uint8, one-dimensional.
        begin: from where.
        target: uint8, one-dimensional, written.
        written: to where.
    """
    kinds, names = (source, begin, target, written), ("source", "begin", "target", "written")

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        program = _Program(context, builder, dict(zip(names, zip(signature.args, arguments, strict=True), strict=True)))
        pairs = program.load(program.array("source"), program["begin"], ir.VectorType(_WORD, _TAKEN))
        taken = builder.trunc(pairs, ir.VectorType(_BYTE, _TAKEN))
        program.store(taken, program.array("target"), program["written"])
        return context.get_dummy_value()

    return _signature(names, kinds), generate


@compiled
def copy_rows(given: Any, rows: Any, stride: Any, copies: Any, copied: Any) -> None:
    """Copy every stride-th place of rows of spikes.

    Args:
        given: uint8 [steps, groups, places of the plane].
        rows: int64 [rows, 4]: where a row begins in the plane it is copied from, which copy it belongs to, where it
            begins there, and how many places it has.
        stride: from one place that is copied to the next.
        copies: how many copies are made of each group.
        copied: uint8 [steps, groups * copies, places of the plane], written.
    """
    steps, groups, plane = given.shape
    copied_plane = copied.shape[2]
    source, target, across = given.reshape(-1), copied.reshape(-1), np.uint64(stride)
    for part in range(steps * groups):
        for row in range(len(rows)):
            begin, length = part * plane + rows[row, 0], rows[row, 3]
            written = (part * copies + rows[row, 1]) * copied_plane + rows[row, 2]
            # The eighth pair may end one place behind the row, so there has to be one in the array.
            while stride == 2 and length >= _TAKEN and begin + 2 * _TAKEN <= len(source):
                take_every_second(source, begin, target, written)
                written, begin, length = written + _TAKEN, begin + 2 * _TAKEN, length - _TAKEN
            # Unsigned indices: numba would ask of signed ones whether they count from the end.
            begin, written = np.uint64(begin), np.uint64(written)
            for place in range(np.uint64(length)):
                target[written + place] = source[begin + across * place]
