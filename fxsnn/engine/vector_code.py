"""Neurons at some places take a step: LLVM code with vector instructions that numba does not know or does not find.

Places are computed in runs of 64 or 128, as the instruction set says. What there is of each neuron of a run (its
membrane, its drive) lies in memory in the order in which vectors come out of the lookups, see `order_in_run`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from fxsnn.engine.instructions import LOOKUPS, InstructionSet
from fxsnn.engine.llvm_code import BYTE, INDEX, Writer, intrinsic_of

_Drive = Callable[[int, int, int, int], Any]

_PARTS = 2
"""A run is two vectors of bytes: a table that has been loaded serves both."""
TAKEN = 8
"""Bytes that `take_every_second` copies."""
_WORD = ir.IntType(16)
_ELEMENTS = {
    **dict.fromkeys(("tables", "given", "plain", "mask", "spikes", "source", "target"), types.uint8),
    **dict.fromkeys(("sources", "flushes"), types.int64),
    **dict.fromkeys(("membranes", "neurons", "reached", "drive", "base", "gains")),
}
"""What must be in arrays whose memory is read as it lies; `None` for the type of the membranes."""


def _intrinsic(parameters: Mapping[str, Any], write: Callable[[_Program], None]) -> tuple[Any, Callable[..., Any]]:
    """See `intrinsic_of`."""
    return intrinsic_of(parameters, _ELEMENTS, _Program, write)


class _Program(Writer):
    """Writes LLVM code; offsets are in bytes."""

    @property
    def how(self) -> InstructionSet:
        """The instruction set, which is among the arguments."""
        return self._arguments["how"][0].instance_class()

    @property
    def bytes(self) -> ir.VectorType:
        """A vector of bytes."""
        return ir.VectorType(BYTE, self.how.vector)

    @property
    def words(self) -> ir.VectorType:
        """A vector of words of 16 bits."""
        return ir.VectorType(_WORD, self.how.vector // 2)

    def numbers(self, name: str) -> _Numbers:
        """What the elements of an array argument are."""
        return _Numbers(self.element(name), self.how.vector)

    def variable(self, kind: ir.VectorType) -> Any:
        """A variable, 0 at first."""
        zero = _same(kind, 0)
        variable = cgutils.alloca_once(self.builder, kind)
        self.builder.store(zero, variable)
        return variable

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
        size: of a vector in bytes.
    """

    def __init__(self, kind: ir.Type, size: int) -> None:
        self.kind = kind
        self.real = isinstance(kind, ir.DoubleType)
        self.bits = 64 if self.real else kind.width
        self.bytes = self.bits // 8
        self.shares = self.bits // _WORD.width
        """As many of these vectors as there are in one of 16-bit words."""
        self.vector = ir.VectorType(kind, size // self.bytes)
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


def _vector_of(place: int, shares: int, size: int) -> tuple[int, int]:
    """In which vector of a run the neuron at a place is, and which element of it.

    8-bit sums of two neighbouring places come as one word, those of even places are taken off first; then a vector of
    words is shared out to `shares` vectors of membranes, the first of which takes every `shares`-th word from the
    first.
    """
    part, byte = divmod(place, size)
    word, odd = divmod(byte, 2)
    element, share = divmod(word, shares)
    return (odd * _PARTS + part) * shares + share, element


def order_in_run(kind: np.dtype[Any], how: InstructionSet) -> NDArray[np.int64]:
    """Where the neuron at each place of a run is among those of the run and a channel, if they have that type."""
    found = [_vector_of(place, kind.itemsize // 2, how.vector) for place in range(how.lanes)]
    return np.array([vector * (how.vector // kind.itemsize) + element for vector, element in found])


@intrinsic  # type: ignore[untyped-decorator]  # numba leaves it untyped
def fire_places(
    typing_context: Any,
    how: Any,
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
    """One step of the neurons of a byte's channels at a run of places, from the spikes that they read.

    For each lookup k of the runs of lookups, and place p of the run of places, the index is
    `given[sources[k] + given_place + p]`; it chooses from `tables[k, c]` what is added to the weighted sum of channel
    c. Then, for each neuron, with the three numbers of its channel in `neurons`:

        membrane += factor * sum + addend;  spike where membrane >= threshold;  reset

    With `drive`, its elements take the place of the addend, and with `plain` these spikes are added, too, each times
    the gain of its channel.

    Args:
        typing_context: numba's.
        how: the instruction set; below, C are the channels of a byte, and L the places of a run.
        tables: uint8 [lookups, C, 2^C]. The 8-bit sums of a run's lookups must not overflow.
        sources: int64 [lookups].
        flushes: int64, bounds of the runs of lookups.
        first_run: first run.
        last_run: last run, exclusive.
        given: uint8, one-dimensional, values below 2^C.
        given_place: added to every index.
        drive: like `membranes`, or `None`.
        plain: uint8, one-dimensional, bit c of a byte is a spike that channel c reads; or `None`.
        plain_place: where in it the places begin.
        gains: of the membranes' type [C]; or `None`.
        membranes: integers [C, L] in the order of a run, rewritten.
        neurons: integers of the same type [C, 3]: factor, addend, threshold of each channel.
        zero_reset: whether a spike sets its membrane to 0; else it takes the threshold off.
        reached: like `membranes`, written: what these came to before the reset; or `None`.
        mask: uint8; only at places where it is 255 neurons may spike.
        mask_place: where in `mask` the places begin.
        spikes: uint8, written: bit c of a byte is the spike of channel c.
        spikes_place: where in `spikes` the places begin.
    """
    parameters = {**locals()}

    def write(program: _Program) -> None:
        numbers = program.numbers("membranes")
        weighted = _drives(program, numbers)

        def driven(channel: int, odd: int, part: int, share: int) -> Any:
            if not program.given("drive"):
                return program.builder.add(weighted(channel, odd, part, share), _constant(program, numbers, channel, 1))
            before = program.load(program.array("drive"), _offset(numbers, channel, odd, part, share), numbers.vector)
            if program.given("plain"):
                before = program.builder.add(before, _as_they_are(program, numbers, "plain", channel, odd, part, share))
            return program.builder.add(weighted(channel, odd, part, share), before)

        _fire(program, numbers, driven)

    return _intrinsic(parameters, write)


@intrinsic  # type: ignore[untyped-decorator]  # numba leaves it untyped
def add_places(
    typing_context: Any,
    how: Any,
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
    """What one of several inputs adds to the drives of the neurons of a byte's channels at a run of places.

        drive = base + factor * sum

    with the sums of `fire_places`.

    Args:
        typing_context: numba's.
        how: as in `fire_places`.
        tables: as in `fire_places`.
        sources: as in `fire_places`.
        flushes: as in `fire_places`.
        first_run: as in `fire_places`.
        last_run: as in `fire_places`.
        given: as in `fire_places`.
        given_place: as in `fire_places`.
        base: integers [C, L] in the order of a run.
        neurons: as in `fire_places`; only the factors count.
        drive: like `base`, written; it may be `base` itself.
    """
    parameters = {**locals()}

    def write(program: _Program) -> None:
        numbers = program.numbers("drive")
        weighted = _drives(program, numbers)
        for channel, odd, part in itertools.product(range(program.how.per_byte), range(2), range(_PARTS)):
            for share in range(numbers.shares):
                offset = _offset(numbers, channel, odd, part, share)
                before = program.load(program.array("base"), offset, numbers.vector)
                program.store(
                    program.builder.add(before, weighted(channel, odd, part, share)), program.array("drive"), offset
                )

    return _intrinsic(parameters, write)


@intrinsic  # type: ignore[untyped-decorator]  # numba leaves it untyped
def add_spikes(
    typing_context: Any,
    how: Any,
    given: Any,
    given_place: Any,
    base: Any,
    gains: Any,
    drive: Any,
) -> Any:
    """What spikes add as they are to the drives of the neurons of a byte's channels at a run of places.

        drive = base + gain * spike

    Args:
        typing_context: numba's.
        how: as in `fire_places`.
        given: as in `fire_places`.
        given_place: where in `given` the places begin; bit c is what channel c reads.
        base: integers [C, L] in the order of a run.
        gains: integers of the same type [C].
        drive: like `base`, written; it may be `base` itself.
    """
    parameters = {**locals()}

    def write(program: _Program) -> None:
        numbers = program.numbers("drive")
        for part, channel, odd in itertools.product(range(_PARTS), range(program.how.per_byte), range(2)):
            for share in range(numbers.shares):
                offset = _offset(numbers, channel, odd, part, share)
                before = program.load(program.array("base"), offset, numbers.vector)
                added = _as_they_are(program, numbers, "given", channel, odd, part, share)
                program.store(program.builder.add(before, added), program.array("drive"), offset)

    return _intrinsic(parameters, write)


@intrinsic  # type: ignore[untyped-decorator]  # numba leaves it untyped
def fire_driven_places(
    typing_context: Any,
    how: Any,
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
    """One step of the neurons of a byte's channels at a run of places: `fire_places` with drives that are known.

    Args:
        typing_context: numba's.
        how: as in `fire_places`.
        drive: of the membranes' type, [C, L] in the order of a run.
        membranes: integers or float64 [C, L] in that order, rewritten.
        neurons: as in `fire_places`; only the thresholds count.
        zero_reset: as in `fire_places`.
        reached: as in `fire_places`.
        mask: as in `fire_places`.
        mask_place: as in `fire_places`.
        spikes: as in `fire_places`.
        spikes_place: as in `fire_places`.
    """
    parameters = {**locals()}

    def write(program: _Program) -> None:
        numbers, drives = program.numbers("membranes"), program.array("drive")

        def driven(channel: int, odd: int, part: int, share: int) -> Any:
            return program.load(drives, _offset(numbers, channel, odd, part, share), numbers.vector)

        _fire(program, numbers, driven)

    return _intrinsic(parameters, write)


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
    channels = program.how.per_byte
    entries = 1 << channels
    kind = ir.FunctionType(program.bytes, [program.bytes, program.bytes])
    choose = builder.module.declare_intrinsic(LOOKUPS[type(program.how)], (), kind)
    table_kind = ir.VectorType(BYTE, entries)
    repeated = ir.Constant(
        ir.VectorType(ir.IntType(32), program.how.vector), [i % entries for i in range(program.how.vector)]
    )
    totals = [program.variable(program.bytes) for _ in range(channels * _PARTS)]
    wholes = [program.variable(program.words) for _ in totals]
    uppers = [program.variable(program.words) for _ in totals]
    runs = cgutils.for_range_slice(builder, program["first_run"], program["last_run"], INDEX(1), inc=True)
    with runs as (run, _):
        start = program.load(flushes, program.times(run, 8), INDEX)
        stop = program.load(flushes, program.times(builder.add(run, INDEX(1)), 8), INDEX)
        for total in totals:
            builder.store(_same(program.bytes, 0), total)
        with cgutils.for_range_slice(builder, start, stop, INDEX(1), inc=True) as (lookup, _):
            source = builder.add(program.load(sources, program.times(lookup, 8), INDEX), program["given_place"])
            places = [builder.add(source, INDEX(program.how.vector * part)) for part in range(_PARTS)]
            indices = [program.load(given, place, program.bytes) for place in places]
            row = program.times(lookup, channels * entries)
            for channel in range(channels):
                table = program.load(tables, builder.add(row, INDEX(entries * channel)), table_kind)
                table = builder.shuffle_vector(table, ir.Constant(table_kind, ir.Undefined), repeated)
                for part in range(_PARTS):
                    total = totals[channel * _PARTS + part]
                    builder.store(builder.add(builder.load(total), builder.call(choose, [table, indices[part]])), total)
        for total, whole, upper in zip(totals, wholes, uppers, strict=True):
            word = builder.bitcast(builder.load(total), program.words)
            builder.store(builder.add(builder.load(whole), word), whole)
            builder.store(builder.add(builder.load(upper), builder.lshr(word, _same(program.words, 8))), upper)
    sums = []
    for channel in range(channels):
        parts = range(channel * _PARTS, (channel + 1) * _PARTS)
        odd = [builder.load(uppers[part]) for part in parts]
        even = [
            builder.sub(builder.load(wholes[part]), builder.shl(upper, _same(program.words, 8)))
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
    return (((channel * 2 + odd) * _PARTS + part) * numbers.shares + share) * numbers.vector.count * numbers.bytes


def _spike(numbers: _Numbers, channel: int, odd: int, share: int) -> ir.Constant:
    """Where in the bytes of a half of a run the spikes of a vector of membranes are."""
    return _same(numbers.integers, 1 << (channel + 8 * odd + _WORD.width * share))


def _as_they_are(program: _Program, numbers: _Numbers, name: str, channel: int, odd: int, part: int, share: int) -> Any:
    """A vector of what spikes of the argument of that name add, each times its channel's gain."""
    builder = program.builder
    place = builder.add(program[f"{name}_place"], INDEX(program.how.vector * part))
    spikes = program.load(program.array(name), place, numbers.integers)
    there = builder.and_(spikes, _spike(numbers, channel, odd, share))
    gain = program.repeated(
        program.load(program.array("gains"), channel * numbers.bytes, numbers.kind), numbers.vector.count
    )
    spike = builder.icmp_unsigned("!=", there, _same(numbers.integers, 0))
    return builder.select(spike, gain, _same(numbers.vector, 0))


def _fire(program: _Program, numbers: _Numbers, drive: _Drive) -> None:
    """The neurons of a byte's channels at a run of places take a step.

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
                    fired = builder.bitcast(_fire_part(program, numbers, drive, part, to_zero=to_zero), program.words)
                    offset = INDEX(part * program.how.vector)
                    allowed = program.load(mask, builder.add(program["mask_place"], offset), program.words)
                    program.store(builder.and_(fired, allowed), spikes, builder.add(program["spikes_place"], offset))


def _fire_part(program: _Program, numbers: _Numbers, drive: _Drive, part: int, *, to_zero: bool) -> Any:
    """Spikes of half a run; membranes are rewritten."""
    builder, membranes = program.builder, program.array("membranes")
    fired = _same(numbers.integers, 0)
    for channel in range(program.how.per_byte):
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
    parameters = {**locals()}

    def write(program: _Program) -> None:
        pairs = program.load(program.array("source"), program["begin"], ir.VectorType(_WORD, TAKEN))
        taken = program.builder.trunc(pairs, ir.VectorType(BYTE, TAKEN))
        program.store(taken, program.array("target"), program["written"])

    return _intrinsic(parameters, write)
