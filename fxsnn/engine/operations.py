"""What the CPU engine does to the spikes of some images: one layer, or a rearrangement."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fxsnn.engine import kernels
from fxsnn.engine.avx2 import copy_rows, fire_constant, fire_convolution, order_in_run
from fxsnn.engine.planes import LANES, Grid
from fxsnn.engine.tables import CHANNELS, ConvolutionTables
from fxsnn.numerics import Dynamics

Array = NDArray[Any]

_OUTPUTS_TOGETHER = 256
"""Outputs of a fully connected layer whose tables and sums are in the cache together."""


@dataclass(frozen=True, eq=False)
class Operation(ABC):
    """One layer, or a rearrangement of spikes, on a fixed number of images.

    Attributes:
        name: the layer's name in the user's network; "" for a rearrangement.
        channels: of the output.
        grid: layout of the output.
        flat: the output has no height and width.
    """

    name: str
    channels: int
    grid: Grid
    flat: bool

    @cached_property
    def places(self) -> Array:
        """The place of every output, [images, outputs of a channel]."""
        return self.grid.places().reshape(self.grid.images, -1)

    @abstractmethod
    def membranes(self, *, kept: bool) -> Array | None:
        """New membranes; `None` for a rearrangement.

        Args:
            kept: they are needed behind the steps of a run.
        """

    @abstractmethod
    def run(
        self, given: Array, membranes: Any, spikes: Array, dynamics: Dynamics, *, fresh: bool, extremes: Array | None
    ) -> None:
        """Run some steps.

        Args:
            given: spikes [steps, groups, places]; for the first layer weighted sums, [images, channels, outputs].
            membranes: of the step before; written.
            spikes: [steps, groups, places], written.
            dynamics: reset and start.
            fresh: the membranes start here.
            extremes: see `fxsnn.engine.kernels`.
        """


def starts_of(thresholds: Array, dynamics: Dynamics) -> Array:
    """Where membranes start."""
    return thresholds // 2 if dynamics.initial_membrane else np.zeros_like(thresholds)


@dataclass(frozen=True, eq=False)
class LayerInRuns(Operation):
    """A layer whose neurons at 64 places are computed together.

    Attributes:
        neurons: gain, leak and threshold, [groups, 4, 3].
    """

    neurons: Array

    @cached_property
    def mask(self) -> Array:
        """15 at places with a neuron, 0 elsewhere."""
        return self.grid.mask()

    @cached_property
    def order(self) -> Array:
        """See `order_in_run`."""
        return order_in_run(self.neurons.dtype)

    def membranes(self, *, kept: bool) -> Array:
        """[groups, runs of places, 4, 64], in the order of a run; only one run unless they are kept."""
        return np.zeros((len(self.neurons), self.grid.runs if kept else 1, CHANNELS, LANES), self.neurons.dtype)

    def watch(self, extremes: Array | None) -> tuple[Array | None, Array | None, Array | None]:
        """What kernels are given for `extremes`: which neurons there are, room for membranes, and `extremes`."""
        if extremes is None:
            return None, None, None
        there = self.mask[: self.grid.runs * LANES].reshape(-1, LANES) > 0
        ordered = np.empty_like(there)
        ordered[:, self.order] = there
        real = np.arange(len(self.neurons) * CHANNELS).reshape(-1, CHANNELS, 1) < self.channels
        return real & ordered.reshape(-1), np.empty((CHANNELS, LANES), self.neurons.dtype), extremes


@dataclass(frozen=True, eq=False)
class ConstantLayer(LayerInRuns):
    """The first layer: its drive does not change over time."""

    @cached_property
    def sources(self) -> Array:
        """Where each neuron's weighted sum is, see `fire_constant`."""
        sources = np.zeros((self.grid.runs, LANES), np.uint64)
        run, place = np.divmod(self.places - self.grid.before, LANES)
        images, outputs = self.places.shape
        sources[run, self.order[place]] = np.arange(images)[:, None] * self.channels * outputs + np.arange(outputs)
        return sources

    def run(
        self, given: Array, membranes: Any, spikes: Array, dynamics: Dynamics, *, fresh: bool, extremes: Array | None
    ) -> None:
        """See `Operation`."""
        fire_constant(
            given, self.sources,
            self.neurons, starts_of(self.neurons[..., 2], dynamics), fresh, dynamics.reset == "zero",
            self.mask, membranes, self.grid.runs, spikes, self.grid.before, *self.watch(extremes),
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class ConvolutionLayer(LayerInRuns):
    """A convolution of spikes, or a sum over windows of spikes."""

    tables: ConvolutionTables
    sources: Array

    def run(
        self, given: Array, membranes: Any, spikes: Array, dynamics: Dynamics, *, fresh: bool, extremes: Array | None
    ) -> None:
        """See `Operation`."""
        tables = self.tables
        fire_convolution(
            tables.tables, self.sources, tables.flushes, tables.blocks,
            self.neurons, starts_of(self.neurons[..., 2], dynamics), fresh, dynamics.reset == "zero",
            self.mask, given, membranes, self.grid.runs, spikes, self.grid.before, *self.watch(extremes),
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class DenseLayer(Operation):
    """A fully connected layer of spikes."""

    source: Grid
    codes: Array
    neurons: Array
    sums: np.dtype[Any]

    def membranes(self, *, kept: bool) -> Array:
        """[images, outputs]."""
        return np.zeros((self.grid.images, len(self.neurons)), self.neurons.dtype)

    def run(
        self, given: Array, membranes: Any, spikes: Array, dynamics: Dynamics, *, fresh: bool, extremes: Array | None
    ) -> None:
        """See `Operation`."""
        if fresh:
            membranes[:] = starts_of(self.neurons[:, 2], dynamics)
        sums = np.empty((len(spikes), min(_OUTPUTS_TOGETHER, len(self.neurons))), self.sums)
        kernels.fire_dense(
            given, self.source.before, self.source.image_places, self.codes, self.neurons, dynamics.reset == "zero",
            sums, membranes, spikes, self.grid.before, self.channels, extremes,
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Rearrangement(Operation):
    """Spikes put elsewhere: a convolution with a stride reads its input in phases."""

    rows: Array
    stride: int
    copies: int

    def membranes(self, *, kept: bool) -> None:
        """There are none."""

    def run(
        self, given: Array, membranes: Any, spikes: Array, dynamics: Dynamics, *, fresh: bool, extremes: Array | None
    ) -> None:
        """See `Operation`."""
        copy_rows(given, self.rows, self.stride, self.copies, spikes)
