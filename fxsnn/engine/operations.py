"""What the CPU engine does to the spikes of some images: one layer, or a rearrangement."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fxsnn.engine import kernels
from fxsnn.engine.convolution import WORDS, fire_convolution
from fxsnn.engine.planes import LANES, Grid
from fxsnn.engine.tables import CHANNELS, ConvolutionTables
from fxsnn.neuron import Dynamics

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
    def membranes(self) -> Array | None:
        """New membranes; `None` for a rearrangement."""

    @abstractmethod
    def reset(self, membranes: Any, dynamics: Dynamics) -> None:
        """Set membranes to where they start."""

    @abstractmethod
    def run(self, given: Array, membranes: Any, spikes: Array, zero_reset: bool, extremes: Array | None) -> None:
        """Write spikes [steps, groups, places] for those given; the first layer is given its drive instead."""


def starts_of(thresholds: Array, channels: int, dynamics: Dynamics) -> Array:
    """Where the membranes of each channel start; 0 for channels that only fill up the last group."""
    starts = np.zeros_like(thresholds)
    if dynamics.initial_membrane:
        starts[:channels] = thresholds[:channels] // 2
    return starts


@dataclass(frozen=True, eq=False)
class ConstantLayer(Operation):
    """The first layer: its drive does not change over time."""

    gain: int
    leaks: Array
    thresholds: Array
    mask: Array

    def membranes(self) -> Array:
        """[channels, places]."""
        return np.zeros((len(self.thresholds), self.grid.computed), self.thresholds.dtype)

    def reset(self, membranes: Array, dynamics: Dynamics) -> None:
        """Set membranes to where they start."""
        membranes[:] = starts_of(self.thresholds, self.channels, dynamics)[:, None]

    def lay_out(self, sums: Array, drive: Array) -> None:
        """Put gain * sum + leak at its place in `drive` [channels, places]; `sums` are [images, channels, outputs]."""
        gain = self.thresholds.dtype.type(self.gain)
        kernels.lay_out_drive(sums, gain, self.leaks, self.places - self.grid.before, drive)

    def run(self, given: Array, membranes: Any, spikes: Array, zero_reset: bool, extremes: Array | None) -> None:
        """See `Operation`."""
        kernels.fire_constant(
            given, membranes, self.thresholds, zero_reset, self.mask, spikes, self.grid.before, self.channels, extremes
        )


@dataclass(frozen=True, eq=False)
class ConvolutionLayer(Operation):
    """A convolution of spikes, or a sum over windows of spikes."""

    tables: ConvolutionTables
    sources: Array
    neurons: Array
    thresholds: Array
    mask: Array

    def membranes(self) -> Array:
        """[groups, runs of places, 4, 2, half the places of a run]."""
        shape = (len(self.neurons), self.grid.computed // LANES, CHANNELS, 2, WORDS)
        return np.zeros(shape, self.neurons.dtype)

    def reset(self, membranes: Array, dynamics: Dynamics) -> None:
        """Set membranes to where they start."""
        starts = starts_of(self.thresholds, self.channels, dynamics)
        membranes[:] = starts.reshape(-1, 1, CHANNELS, 1, 1)

    def run(self, given: Array, membranes: Any, spikes: Array, zero_reset: bool, extremes: Array | None) -> None:
        """See `Operation`."""
        tables = self.tables
        sums = None if extremes is None else np.empty((CHANNELS, 2, WORDS), np.uint16)
        fire_convolution(
            tables.tables, self.sources, tables.flushes, tables.blocks, self.neurons, zero_reset, self.mask,
            given, membranes, spikes, self.grid.before, self.channels, sums, extremes,
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class DenseLayer(Operation):
    """A fully connected layer of spikes."""

    source: Grid
    codes: Array
    neurons: Array
    sums: np.dtype[Any]

    def membranes(self) -> Array:
        """[images, outputs]."""
        return np.zeros((self.grid.images, len(self.neurons)), self.neurons.dtype)

    def reset(self, membranes: Array, dynamics: Dynamics) -> None:
        """Set membranes to where they start."""
        membranes[:] = starts_of(self.neurons[:, 2], self.channels, dynamics)

    def run(self, given: Array, membranes: Any, spikes: Array, zero_reset: bool, extremes: Array | None) -> None:
        """See `Operation`."""
        sums = np.empty((len(spikes), min(_OUTPUTS_TOGETHER, len(self.neurons))), self.sums)
        kernels.fire_dense(
            given, self.source.before, self.source.image_places, self.codes, self.neurons, zero_reset,
            sums, membranes, spikes, self.grid.before, self.channels, extremes,
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Rearrangement(Operation):
    """Spikes put elsewhere: a convolution with a stride reads its input in phases."""

    rows: Array
    stride: int
    copies: int

    def membranes(self) -> None:
        """There are none."""

    def reset(self, membranes: Any, dynamics: Dynamics) -> None:
        """Nothing to set."""

    def run(self, given: Array, membranes: Any, spikes: Array, zero_reset: bool, extremes: Array | None) -> None:
        """See `Operation`."""
        kernels.copy_rows(given, self.rows, self.stride, self.copies, spikes)
