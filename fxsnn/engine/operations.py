"""What the CPU engine does to the spikes of some images: one layer, wiring, or a rearrangement."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from fxsnn.engine import kernels
from fxsnn.engine.instructions import InstructionSet
from fxsnn.engine.lookups import Array
from fxsnn.engine.over_places import copy_rows, fire_constant, fire_convolution, fire_sum
from fxsnn.engine.planes import Grid
from fxsnn.engine.tables import ConvolutionTables
from fxsnn.engine.vector_code import order_in_run
from fxsnn.numerics import Dynamics

_OUTPUTS_TOGETHER = 256
"""So many outputs of a fully connected layer at most have their tables and sums in the cache together."""


@dataclass(frozen=True, eq=False)
class Piece:
    """Some steps of a run.

    Attributes:
        memory: uint8, one-dimensional, for the planes of all operations.
        origins: where in it those of each operation begin.
        shapes: groups and places of the planes of each operation.
        driven: of each operation that reads images, by its number, what these add, [steps, images, channels, outputs];
            one step stands for all.
        start: the first one.
        steps: how many.
        room: how many there is memory for.
        fresh: the membranes start here.
        dynamics: reset and start.
    """

    memory: Array
    origins: tuple[int, ...]
    shapes: tuple[tuple[int, int], ...]
    driven: Mapping[int, Array]
    start: int
    steps: int
    room: int
    fresh: bool
    dynamics: Dynamics

    def planes(self, number: int) -> Array:
        """Spikes of an operation, uint8 [steps, groups, places]."""
        groups, places = self.shapes[number]
        begin = self.origins[number]
        return self.memory[begin : begin + self.steps * groups * places].reshape(self.steps, groups, places)

    def drives(self, number: int) -> Iterator[tuple[slice, Array | None, bool]]:
        """For some of the steps after others what images add to an operation, [images, channels, outputs], and whether
        membranes start there; `None` where they add nothing.
        """
        given = self.driven.get(number)
        if given is None or len(given) == 1:
            yield slice(0, self.steps), None if given is None else given[0], self.fresh
            return
        for step, one in enumerate(given):
            yield slice(step, step + 1), one, self.fresh and step == 0

    def where(self, numbers: Sequence[int]) -> tuple[Array, Array]:
        """Where the planes of some operations begin, and how far they are from one step to the next."""
        sizes = [self.shapes[one][0] * self.shapes[one][1] for one in numbers]
        return np.array([self.origins[one] for one in numbers], np.int64), np.array(sizes, np.int64)


@dataclass(frozen=True, eq=False)
class Operation:
    """One layer, wiring, or a rearrangement of spikes, on a fixed number of images.

    Attributes:
        name: the layer's name in the user's network; "" where there are no neurons.
        number: of the operation in the plan.
        inputs: numbers of the operations whose spikes it reads.
        channels: of the output.
        grid: layout of the output.
        flat: the output has no height and width.
    """

    name: str
    number: int
    inputs: tuple[int, ...]
    channels: int
    grid: Grid
    flat: bool

    @cached_property
    def places(self) -> Array:
        """The place of every output, [images, outputs of a channel]."""
        return self.grid.places().reshape(self.grid.images, -1)

    def spikes(self, piece: Piece) -> Array:
        """Its spikes, uint8 [steps, groups, places]."""
        return piece.planes(self.number)


@dataclass(frozen=True, eq=False)
class PlaneOperation(Operation, ABC):
    """An operation on planes, which runs by itself."""

    def clear(self, piece: Piece) -> None:
        """Take off what others left where this operation has no spikes; it need not clear what it writes."""
        piece.planes(self.number).fill(0)

    @abstractmethod
    def membranes(self, *, kept: bool) -> Array | None:
        """New membranes; `None` where there are no neurons.

        Args:
            kept: they are needed behind the steps of a run.
        """

    @abstractmethod
    def start(self, membranes: Any, images: Array, dynamics: Dynamics) -> None:
        """Let the membranes of some images start again.

        Args:
            membranes: of all, which are kept; written.
            images: their numbers.
            dynamics: start.
        """

    @abstractmethod
    def run(self, piece: Piece, membranes: Any, extremes: Array | None) -> None:
        """Run some steps: write the planes of the operation.

        Args:
            piece: steps, and the memory with what is read.
            membranes: of the step before; written.
            extremes: see `fxsnn.engine.kernels`.
        """


def starts_of(thresholds: Array, dynamics: Dynamics) -> Array:
    """Where membranes start."""
    return thresholds // 2 if dynamics.initial_membrane else np.zeros_like(thresholds)


@dataclass(frozen=True, eq=False)
class LayerInRuns(PlaneOperation):
    """A layer whose neurons at a run of places are computed together.

    Attributes:
        neurons: gain, leak and threshold, [groups, channels of a group, 3].
        how: the instruction set.
    """

    neurons: Array
    how: InstructionSet

    @cached_property
    def mask(self) -> Array:
        """255 at places with a neuron, 0 elsewhere."""
        return self.grid.mask()

    @cached_property
    def order(self) -> Array:
        """See `order_in_run`."""
        return order_in_run(self.neurons.dtype, self.how)

    @cached_property
    def drive_places(self) -> Array:
        """Where what drives each neuron is, see `fire_constant`."""
        found = np.zeros((self.grid.runs, self.how.lanes), np.uint64)
        run, place = np.divmod(self.places - self.grid.before, self.how.lanes)
        images, outputs = self.places.shape
        found[run, self.order[place]] = np.arange(images)[:, None] * self.channels * outputs + np.arange(outputs)
        return found

    def clear(self, piece: Piece) -> None:
        """See `PlaneOperation`."""
        planes = piece.planes(self.number)
        planes[..., : self.grid.before] = 0
        planes[..., self.grid.before + self.grid.runs * self.how.lanes :] = 0

    def membranes(self, *, kept: bool) -> Array:
        """[groups, runs, channels of a group, places of a run], in its order; only one run unless they are kept."""
        runs = self.grid.runs if kept else 1
        return np.zeros((len(self.neurons), runs, self.how.per_byte, self.how.lanes), self.neurons.dtype)

    def start(self, membranes: Any, images: Array, dynamics: Dynamics) -> None:
        """See `PlaneOperation`."""
        run, place = np.divmod(self.places[images].reshape(-1) - self.grid.before, self.how.lanes)
        membranes[:, run, :, self.order[place]] = starts_of(self.neurons[..., 2], dynamics)

    def watch(self, extremes: Array | None) -> tuple[Array | None, Array | None, Array | None]:
        """What kernels are given for `extremes`: which neurons there are, room for membranes, and `extremes`."""
        if extremes is None:
            return None, None, None
        there = self.mask[: self.grid.runs * self.how.lanes].reshape(-1, self.how.lanes) > 0
        ordered = np.empty_like(there)
        ordered[:, self.order] = there
        per_byte, lanes = self.how.per_byte, self.how.lanes
        real = np.arange(len(self.neurons) * per_byte).reshape(-1, per_byte, 1) < self.channels
        return real & ordered.reshape(-1), np.empty((per_byte, lanes), self.neurons.dtype), extremes


@dataclass(frozen=True, eq=False)
class ImageLayer(LayerInRuns):
    """A first layer: what drives it comes of the images alone."""

    def run(self, piece: Piece, membranes: Any, extremes: Array | None) -> None:
        """See `PlaneOperation`."""
        starts, watch = starts_of(self.neurons[..., 2], piece.dynamics), self.watch(extremes)
        for steps, drive, fresh in piece.drives(self.number):
            fire_constant(
                self.how, drive, self.drive_places, self.neurons, starts, fresh, piece.dynamics.reset == "zero",
                self.mask, membranes, self.grid.runs, piece.planes(self.number)[steps], self.grid.before, *watch,
            )  # fmt: skip


@dataclass(frozen=True, eq=False)
class ConvolutionLayer(LayerInRuns):
    """A convolution of spikes, or a sum over windows of spikes.

    Attributes:
        tables: of the codes.
        sources: see `fire_convolution`.
        zero_reset: a spike sets its membrane to 0 whatever the network's reset is.
    """

    tables: ConvolutionTables
    sources: Array
    zero_reset: bool = False

    def run(self, piece: Piece, membranes: Any, extremes: Array | None) -> None:
        """See `PlaneOperation`."""
        tables, zero_reset = self.tables, self.zero_reset or piece.dynamics.reset == "zero"
        fire_convolution(
            self.how, tables.tables, self.sources, tables.flushes, tables.blocks,
            self.neurons, starts_of(self.neurons[..., 2], piece.dynamics), piece.fresh, zero_reset,
            self.mask, piece.planes(self.inputs[0]), membranes, self.grid.runs, piece.planes(self.number),
            self.grid.before, *self.watch(extremes),
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class SumLayer(LayerInRuns):
    """Several inputs: convolutions of spikes, and spikes as they are, in the order in which they are in `inputs`.

    Attributes:
        tables: of each convolution, of which there is one at least.
        sources: of each convolution, as in `fire_convolution`.
        weighted: gain, leak and threshold for each convolution, [convolutions, groups, channels of a group, 3].
        gains: what the others' spikes add, [others, groups, channels of a group].
        firsts: place of the first neuron in the planes of the others.
        read_images: images add something, too.
    """

    tables: tuple[ConvolutionTables, ...]
    sources: tuple[Array, ...]
    weighted: Array
    gains: Array
    firsts: tuple[int, ...]
    read_images: bool

    @cached_property
    def joined(self) -> tuple[Array, Array, Array, Array]:
        """Tables, sources, flushes and blocks of all convolutions, see `fire_sum`."""
        lookups = np.cumsum([0, *(len(one.tables) for one in self.tables)])
        flushes = np.cumsum([0, *(len(one.flushes) for one in self.tables)])
        return (
            np.concatenate([one.tables for one in self.tables]),
            np.concatenate(self.sources),
            np.concatenate([one.flushes + before for one, before in zip(self.tables, lookups, strict=False)]),
            np.stack([one.blocks + before for one, before in zip(self.tables, flushes, strict=False)]),
        )

    def run(self, piece: Piece, membranes: Any, extremes: Array | None) -> None:
        """See `PlaneOperation`."""
        places = self.drive_places if self.read_images else None
        tables, sources, flushes, blocks = self.joined
        convolutions, others = self.inputs[: len(self.tables)], self.inputs[len(self.tables) :]
        origins, strides = piece.where(others)
        firsts, apart = origins + np.array(self.firsts, np.int64), np.array([piece.shapes[one][1] for one in others])
        begins, distances = piece.where(convolutions)
        starts, watch = starts_of(self.neurons[..., 2], piece.dynamics), self.watch(extremes)
        for steps, drive, fresh in piece.drives(self.number):
            plain = np.stack([firsts + steps.start * strides, strides, apart], axis=1)
            fire_sum(
                self.how, tables, sources, flushes, blocks, self.weighted, piece.memory,
                begins + steps.start * distances, distances, plain, self.gains if others else None,
                np.ascontiguousarray(self.neurons[..., 1]), drive, places, starts, fresh,
                piece.dynamics.reset == "zero", self.mask, membranes, self.grid.runs,
                piece.planes(self.number)[steps], self.grid.before, *watch,
            )  # fmt: skip


@dataclass(frozen=True, eq=False)
class DenseLayer(PlaneOperation):
    """A fully connected layer of spikes."""

    source: Grid
    codes: Array
    neurons: Array
    sums: np.dtype[Any]

    def membranes(self, *, kept: bool) -> Array:
        """[images, outputs]."""
        return np.zeros((self.grid.images, len(self.neurons)), self.neurons.dtype)

    def start(self, membranes: Any, images: Array, dynamics: Dynamics) -> None:
        """See `PlaneOperation`."""
        membranes[images] = starts_of(self.neurons[:, 2], dynamics)

    def run(self, piece: Piece, membranes: Any, extremes: Array | None) -> None:
        """See `PlaneOperation`."""
        if piece.fresh:
            membranes[:] = starts_of(self.neurons[:, 2], piece.dynamics)
        together = _OUTPUTS_TOGETHER // self.codes.shape[2] * self.codes.shape[2]  # whole bytes of spikes
        sums = np.empty((piece.steps, min(together, len(self.neurons))), self.sums)
        kernels.fire_dense(
            piece.planes(self.inputs[0]), self.source.before, self.source.image_places, self.codes, self.neurons,
            piece.dynamics.reset == "zero", sums, membranes, piece.planes(self.number), self.grid.before,
            self.channels, extremes,
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Rearrangement(PlaneOperation):
    """Spikes put elsewhere: a convolution with a stride reads its input in phases."""

    rows: Array
    stride: int
    copies: int

    def membranes(self, *, kept: bool) -> None:
        """There are none."""

    def start(self, membranes: Any, images: Array, dynamics: Dynamics) -> None:
        """There are none."""

    def run(self, piece: Piece, membranes: Any, extremes: Array | None) -> None:
        """See `PlaneOperation`."""
        copy_rows(piece.planes(self.inputs[0]), self.rows, self.stride, self.copies, piece.planes(self.number))


@dataclass(frozen=True, eq=False)
class Rewiring(PlaneOperation):
    """Spikes put elsewhere, channel by channel.

    Attributes:
        wires: see `wires_of`.
        between: int64 [inputs], places from one image to the next.
    """

    wires: Array
    between: Array

    def membranes(self, *, kept: bool) -> None:
        """There are none."""

    def start(self, membranes: Any, images: Array, dynamics: Dynamics) -> None:
        """There are none."""

    def run(self, piece: Piece, membranes: Any, extremes: Array | None) -> None:
        """See `PlaneOperation`."""
        wired = piece.planes(self.number)
        wired.fill(0)
        kernels.wire(
            piece.memory, self.wires, *piece.where(self.inputs), self.between, wired,
            self.grid.images, self.grid.image_places,
        )  # fmt: skip
