"""Neurons take their steps: LLVM code for processors with a matrix unit, see `tile_code`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from llvmlite import ir
from numba.core import cgutils
from numba.extending import intrinsic

from fxsnn.engine.llvm_code import BYTE, INDEX
from fxsnn.engine.tile_code import ROW, ROWS, WORD, TileWriter, tile_intrinsic

_IN_MEMORY = ("sums", "gains", "drive", "neurons", "membranes", "spikes", "extremes")
"""What there is of neurons in arrays."""
_MOST_COPIES = ROW // ROWS
"""Spikes of 16 channels fit so often into a row."""


class _Neurons:
    """The neurons of a tile of channels at one place.

    Args:
        writer: with the arguments of `fire_one`.
        second: whether they are the second ones of two.
    """

    def __init__(self, writer: TileWriter, *, second: bool) -> None:
        self._writer, self._second = writer, second
        self._builder = writer.builder
        kind = writer.element("membranes")
        self._real = isinstance(kind, ir.DoubleType)
        self._wide = self._real or kind.width > WORD.width
        self.row = ir.VectorType(kind, ROWS)
        self._size = ROWS * (8 if self._wide else 4)
        real, builder = self._real, writer.builder
        self.add, self._sub = (builder.fadd, builder.fsub) if real else (builder.add, builder.sub)
        self._mul, self._compare = (builder.fmul, builder.fcmp_ordered) if real else (builder.mul, builder.icmp_signed)
        place = self._place("neurons")
        self.leak, self._threshold, start = (
            writer.load(writer.array("neurons"), writer.plus(place, INDEX(number * self._size)), self.row)
            for number in range(3)
        )
        self._copied = [self._copy(number) for number in range(_MOST_COPIES)]
        self._membrane = cgutils.alloca_once_value(builder, start)
        with builder.if_then(builder.not_(writer["fresh"])):
            builder.store(writer.load(writer.array("membranes"), self._place("membranes"), self.row), self._membrane)

    def _place(self, name: str, *more: Any) -> Any:
        """Where in an array what belongs to these neurons is."""
        writer = self._writer
        apart = [writer.builder.extract_value(writer["second"], _IN_MEMORY.index(name))] if self._second else []
        return writer.plus(writer[f"{name}_place"], *apart, *more)

    def keep(self) -> None:
        """Write membranes back."""
        self._writer.store(
            self._builder.load(self._membrane), self._writer.array("membranes"), self._place("membranes")
        )

    def gain(self, term: Any) -> Any:
        """What the sums of a term are multiplied by."""
        between = self._writer.times(term, self._writer["between_gains"])
        return self._writer.load(self._writer.array("gains"), self._place("gains", between), self.row)

    def weighted(self, step: Any, term: Any, gain: Any) -> Any:
        """What a term adds at a step."""
        writer, builder = self._writer, self._builder
        between = writer.times(term, writer["between_terms"])
        place = self._place("sums", writer.times(step, ROW), between)
        sums = writer.load(writer.array("sums"), place, ir.VectorType(WORD, ROWS))
        if self._real:
            sums = builder.sitofp(sums, self.row)
        elif self._wide:
            sums = builder.sext(sums, self.row)
        return self._mul(sums, gain)

    def drive(self, step: Any) -> Any:
        """What images add at a step."""
        writer = self._writer
        return writer.load(
            writer.array("drive"), self._place("drive", writer.times(step, writer["between_drives"])), self.row
        )

    def _copy(self, number: int) -> Any:
        """Where a copy of the spikes of the first step goes; one too many takes the place of the last one."""
        writer, builder = self._writer, self._builder
        last = builder.sub(writer["copies"], INDEX(1))
        number = INDEX(number)
        which = builder.select(builder.icmp_signed("<", number, last), number, last)
        return self._place("spikes", writer.times(which, writer["between_copies"]))

    def write(self, fired: Any, step: Any, *, once: bool) -> None:
        """Write the spikes of a step; always as many copies, since a loop would take longer."""
        writer = self._writer
        between = writer.times(step, writer["apart"])
        for place in self._copied[: 1 if once else None]:
            writer.store(fired, writer.array("memory"), writer.plus(place, between))

    def fire(self, added: Any, *, to_zero: bool) -> Any:
        """Take a step in which so much is added; bytes of 0 and 1, the spikes."""
        writer, builder = self._writer, self._builder
        reached = self.add(builder.load(self._membrane), added)
        if writer.given("extremes"):
            for number, beyond in enumerate(("<", ">")):
                place = self._place("extremes", INDEX(number * self._size))
                before = writer.load(writer.array("extremes"), place, self.row)
                further = self._compare(beyond, reached, before)
                writer.store(builder.select(further, reached, before), writer.array("extremes"), place)
        spike = self._compare(">=", reached, self._threshold)
        taken = builder.select(spike, reached if to_zero else self._threshold, ir.Constant(self.row, [0] * ROWS))
        builder.store(self._sub(reached, taken), self._membrane)
        return builder.zext(spike, ir.VectorType(BYTE, ROWS))


def _take_steps(
    writer: TileWriter,
    together: Sequence[_Neurons],
    terms: int | None,
    *,
    driven: bool = False,
    once: bool = False,
    to_zero: bool = False,
) -> None:
    """All steps, with code for so many terms and a drive, or for any number of them with a drive or without.

    What does not depend on the step before comes first: steps wait for each other, and neurons do not.

    Args:
        writer: with the arguments of `fire_one`.
        together: neurons.
        terms: how many.
        driven: there is a drive.
        once: spikes are written once.
        to_zero: a spike sets its membrane to 0.
    """
    gains = [[one.gain(INDEX(term)) for term in range(terms or 0)] for one in together]
    with cgutils.for_range(writer.builder, writer["steps"]) as loop:
        for one, of_terms in zip(together, gains, strict=True):
            added = one.leak if terms is not None else _sum_of(writer, one, loop.index)
            if driven:
                added = one.add(added, one.drive(loop.index))
            for term, gain in enumerate(of_terms):
                added = one.add(added, one.weighted(loop.index, INDEX(term), gain))
            one.write(one.fire(added, to_zero=to_zero), loop.index, once=once)


def _sum_of(writer: TileWriter, neurons: _Neurons, step: Any) -> Any:
    """What is added at a step, of any number of terms, with a drive or without."""
    builder = writer.builder
    total = cgutils.alloca_once(builder, neurons.row)
    builder.store(neurons.leak, total)
    with builder.if_then(writer["driven"]):
        builder.store(neurons.add(neurons.leak, neurons.drive(step)), total)
    with cgutils.for_range(builder, writer["terms"]) as term:
        of_term = neurons.weighted(step, term.index, neurons.gain(term.index))
        builder.store(neurons.add(builder.load(total), of_term), total)
    return builder.load(total)


def _choose(
    builder: ir.IRBuilder, cases: Sequence[tuple[Any, Callable[[], None]]], otherwise: Callable[[], None]
) -> None:
    """Code for the first case that holds."""
    if not cases:
        otherwise()
        return
    (condition, write), *others = cases
    with builder.if_else(condition) as (then, unless):
        with then:
            write()
        with unless:
            _choose(builder, others, otherwise)


def _firing(parameters: dict[str, Any], together: int) -> tuple[Any, Callable[..., Any]]:
    """See `fire_one`; with so many tiles of channels."""

    def write(writer: TileWriter) -> None:
        builder = writer.builder
        neurons = [_Neurons(writer, second=number == 1) for number in range(together)]
        take_steps = partial(_take_steps, writer, neurons)

        def where(terms: int, *, driven: bool = False, once: bool = False) -> tuple[Any, Callable[[], None]]:
            """A usual case, which has code of its own."""
            condition = builder.icmp_signed("==", writer["terms"], INDEX(terms))
            for flag, wanted in ((writer["zero_reset"], False), (writer["driven"], driven)):
                condition = builder.and_(condition, flag if wanted else builder.not_(flag))
            if once:
                condition = builder.and_(condition, builder.icmp_signed("==", writer["copies"], INDEX(1)))
            return condition, partial(take_steps, terms, driven=driven, once=once)

        cases = [where(1, once=True), where(1), where(2), where(0, driven=True)]
        cases.append((writer["zero_reset"], partial(take_steps, None, to_zero=True)))
        _choose(builder, cases, partial(take_steps, None))
        with builder.if_then(writer["kept"]):
            for one in neurons:
                one.keep()

    return tile_intrinsic(parameters, write)


@intrinsic  # type: ignore[untyped-decorator]  # numba leaves it untyped
def fire_one(
    typing_context: Any,
    steps: Any,
    sums: Any,
    sums_place: Any,
    terms: Any,
    between_terms: Any,
    gains: Any,
    gains_place: Any,
    between_gains: Any,
    driven: Any,
    drive: Any,
    drive_place: Any,
    between_drives: Any,
    neurons: Any,
    neurons_place: Any,
    membranes: Any,
    membranes_place: Any,
    fresh: Any,
    kept: Any,
    zero_reset: Any,
    memory: Any,
    spikes_place: Any,
    apart: Any,
    copies: Any,
    between_copies: Any,
    extremes: Any,
    extremes_place: Any,
    second: Any,
) -> Any:
    """All steps of the neurons of a tile of channels at one place; places are in bytes.

        membrane += leak + drive + sum over terms (gain * sum);  spike where membrane >= threshold;  reset

    Args:
        typing_context: numba's.
        steps: how many, at least 1.
        sums: int32, one-dimensional, rows of 16.
        sums_place: where the row of the first step and the first term is.
        terms: how many sums are added up.
        between_terms: from one to the next.
        gains: of the membranes' type, one-dimensional, rows of 16.
        gains_place: where that of the first term is.
        between_gains: from one to the next.
        driven: whether there is a drive.
        drive: of the membranes' type, one-dimensional.
        drive_place: where that of the first step is.
        between_drives: from one step to the next.
        neurons: of the membranes' type, one-dimensional, three rows: leak, threshold, start.
        neurons_place: where they are.
        membranes: integers or float64, one-dimensional.
        membranes_place: where they are.
        fresh: whether membranes start here.
        kept: whether they are written back.
        zero_reset: whether a spike sets its membrane to 0; else it takes the threshold off.
        memory: uint8, one-dimensional, spikes are written to as 0 and 1.
        spikes_place: where those of the first step are.
        apart: from one step to the next.
        copies: how often they are written, 1 to 4.
        between_copies: from one copy to the next.
        extremes: of the membranes' type, two rows, the smallest and the largest before a reset so far; or `None`.
        extremes_place: where they are.
        second: from where something of these neurons is to where it is of the second ones, see `fire_two`: of
            sums, gains, drive, neurons, membranes, spikes, extremes.
    """
    return _firing({**locals()}, 1)


@intrinsic  # type: ignore[untyped-decorator]  # numba leaves it untyped
def fire_two(
    typing_context: Any,
    steps: Any,
    sums: Any,
    sums_place: Any,
    terms: Any,
    between_terms: Any,
    gains: Any,
    gains_place: Any,
    between_gains: Any,
    driven: Any,
    drive: Any,
    drive_place: Any,
    between_drives: Any,
    neurons: Any,
    neurons_place: Any,
    membranes: Any,
    membranes_place: Any,
    fresh: Any,
    kept: Any,
    zero_reset: Any,
    memory: Any,
    spikes_place: Any,
    apart: Any,
    copies: Any,
    between_copies: Any,
    extremes: Any,
    extremes_place: Any,
    second: Any,
) -> Any:
    """As `fire_one`, of two tiles of channels or at two places: those that are told, and the second ones."""
    return _firing({**locals()}, 2)


@intrinsic  # type: ignore[untyped-decorator]  # numba leaves it untyped
def scale_row(
    typing_context: Any,
    sums: Any,
    sums_place: Any,
    gains: Any,
    gains_place: Any,
    between_gains: Any,
    membranes: Any,
    membranes_place: Any,
) -> Any:
    """A row of sums times a factor, and something added; places are in bytes.

    Args:
        typing_context: numba's.
        sums: int32, one-dimensional.
        sums_place: where the row is.
        gains: of the type of membranes, one-dimensional.
        gains_place: where the factors are.
        between_gains: from there to what is added.
        membranes: of that type, one-dimensional, written.
        membranes_place: where the result goes.
    """
    parameters = {**locals()}

    def write(writer: TileWriter) -> None:
        builder, row = writer.builder, ir.VectorType(writer.element("membranes"), ROWS)
        kind, place = row.element, writer["gains_place"]
        sums = writer.load(writer.array("sums"), writer["sums_place"], ir.VectorType(WORD, ROWS))
        factor, added = (
            writer.load(writer.array("gains"), one, row) for one in (place, writer.plus(place, writer["between_gains"]))
        )
        if isinstance(kind, ir.DoubleType):
            found = builder.fadd(builder.fmul(builder.sitofp(sums, row), factor), added)
        else:
            whole = sums if kind.width == WORD.width else builder.sext(sums, row)
            found = builder.add(builder.mul(whole, factor), added)
        writer.store(found, writer.array("membranes"), writer["membranes_place"])

    return tile_intrinsic(parameters, write)
