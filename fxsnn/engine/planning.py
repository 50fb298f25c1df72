"""The CPU engine's plan: which operations a network comes to, and where their spikes lie in memory."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from fxsnn.engine.chain import Unsupported
from fxsnn.engine.operations import (
    Array,
    ConstantLayer,
    ConvolutionLayer,
    DenseLayer,
    Operation,
    Rearrangement,
)
from fxsnn.engine.planes import Grid, Pair, Window, phase_rows, phases_of, shared_grid, tap_distances
from fxsnn.engine.tables import (
    CHANNELS,
    LARGEST_SUM,
    ConvolutionTables,
    convolution_tables,
    groups_of,
    padded,
    pooling_tables,
)
from fxsnn.errors import DataError
from fxsnn.layers import SpikeAvgPool2d, SpikeConv2d, SpikeLinear, Spiking, pair, sides_of

Shape = tuple[int, int, int]
"""Channels, height and width."""


def _never(kind: np.dtype[Any]) -> float:
    """A threshold for neurons that only fill up a group."""
    return float(np.finfo(kind).max) if kind.kind == "f" else int(np.iinfo(kind).max)


@dataclass
class Section:
    """Layers whose maps share a layout.

    Attributes:
        sizes: height and width of each map.
        readers: windows that read one of them, with its size.
    """

    sizes: list[Pair]
    readers: list[tuple[Pair, Window]] = field(default_factory=list)

    def grid(self, images: int) -> Grid:
        """The shared layout, holding the first of the maps."""
        return shared_grid(self.sizes, self.readers, images)


def window_of(layer: Spiking) -> Window:
    """The geometry of a convolution or a pooling."""
    assert isinstance(layer, SpikeConv2d | SpikeAvgPool2d)
    if isinstance(layer, SpikeAvgPool2d):
        padding = pair(layer.padding)
        return Window(layer.window(), pair(layer.stride), padding, padding)
    kernel, stride, dilation = (pair(value) for value in (layer.kernel_size, layer.stride, layer.dilation))
    top, bottom, left, right = sides_of(layer)
    return Window(kernel, stride, (top, left), (bottom, right), dilation)


@dataclass(frozen=True, eq=False)
class Weights:
    """What is computed once from a layer's integers, whatever the images.

    Attributes:
        name: of the layer in the user's network.
        layer: the layer.
        tables: of a convolution or a pooling of spikes.
        codes: of a fully connected layer of spikes, int8 [outputs, inputs].
    """

    name: str
    layer: Spiking
    tables: ConvolutionTables | None = None
    codes: Array | None = None


def weights_of(name: str, layer: Spiking) -> Weights:
    """What is computed once from a layer.

    Raises:
        Unsupported: the engine's integers are too narrow for the layer.
    """
    if layer.constant_input:
        return Weights(name, layer)
    if isinstance(layer, SpikeLinear):
        return Weights(name, layer, codes=layer.codes.numpy())
    if layer.largest_sum > LARGEST_SUM:
        raise Unsupported(f"the weights of {name} have magnitudes that add up to {layer.largest_sum}")
    if isinstance(layer, SpikeAvgPool2d):
        return Weights(name, layer, pooling_tables(len(layer.threshold), layer.window()))
    assert isinstance(layer, SpikeConv2d)
    return Weights(name, layer, convolution_tables(layer.codes.numpy(), layer.groups))


def sections_of(weights: list[Weights], shape: Shape) -> list[tuple[Section, Section]]:
    """For each layer, the section it writes and the one it reads.

    A window without stride writes into the section it reads; one with a stride has its input rearranged first, into the
    section that it writes. The first layer, whose drive has that shape, reads what it writes.

    Raises:
        DataError: the images have a size that a layer cannot take.
    """
    size = shape[1:]
    if min(size) < 1:
        raise DataError(f"the images are too small: they leave nothing behind {weights[0].name}")
    here = Section([size])
    found = [(here, here)]
    for before, now in itertools.pairwise(weights):
        read, layer = here, now.layer
        if isinstance(layer, SpikeLinear):
            features = len(before.layer.threshold) * size[0] * size[1]
            if features != layer.in_features:
                raise DataError(
                    f"{now.name} reads {layer.in_features} features; "
                    f"with images of this size {before.name} gives {features}"
                )
            size = (1, 1)
            here = Section([size])
        else:
            assert isinstance(layer, SpikeConv2d | SpikeAvgPool2d)
            window = window_of(layer)
            if window.stride == (1, 1):
                read.readers.append((size, window))
            else:
                phases = phases_of(window, size)
                here = Section([phases.size], [(phases.size, phases.window)])
            size = window.output(size)
            here.sizes.append(size)
        if min(size) < 1:
            raise DataError(f"the images are too small: they leave nothing behind {now.name}")
        found.append((here, read))
    return found


def _membrane_type(layer: Spiking) -> np.dtype[Any]:
    """In which type membranes, drive and thresholds are exact."""
    if layer.constant_input and layer.input_magnitude is None:
        return np.dtype(np.float64)
    return np.dtype(np.int64 if layer.membrane_type() == torch.int64 else np.int32)


def neurons_of(layer: Spiking, offset: Array | int = 0) -> Array:
    """Gain, leak and threshold of each neuron's channel, [channels, 3], channels filled up to whole groups.

    Args:
        layer: the layer.
        offset: added to each channel's sum before the gain.
    """
    kind = _membrane_type(layer)
    columns = [
        padded(np.full(len(layer.threshold), layer.gain, kind), 0),
        padded(layer.leak.numpy().astype(kind), 0),
        padded(layer.threshold.numpy().astype(kind), _never(kind)),
    ]
    columns[1] = columns[1] + columns[0] * np.asarray(offset, kind)
    return np.ascontiguousarray(np.stack(columns, axis=1))


@dataclass(frozen=True, eq=False)
class Plan:
    """The operations for a number of images of one size."""

    operations: tuple[Operation, ...]
    images: int


def plan_of(weights: list[Weights], shape: Shape, images: int) -> Plan:
    """Lay out all layers.

    Args:
        weights: of all layers in order.
        shape: of the first layer's drive.
        images: how many images the plan is for.

    Raises:
        DataError: the images have a size that a layer cannot take.
    """
    operations: list[Operation] = []
    for now, (written, read) in zip(weights, sections_of(weights, shape), strict=True):
        if now.layer.constant_input:
            operations.append(_constant(now, written.grid(images)))
            continue
        producer = operations[-1]
        if isinstance(now.layer, SpikeLinear):
            operations.append(_dense(now, producer, written.grid(images)))
            continue
        if written is not read:
            operations.append(_rearrangement(now.layer, producer, written.grid(images)))
        operations.append(_convolution(now, producer.grid, operations[-1].grid))
    return Plan(tuple(operations), images)


def _constant(now: Weights, grid: Grid) -> ConstantLayer:
    neurons = neurons_of(now.layer).reshape(-1, CHANNELS, 3)
    return ConstantLayer(now.name, len(now.layer.threshold), grid, isinstance(now.layer, SpikeLinear), neurons)


def _convolution(now: Weights, source: Grid, given: Grid) -> ConvolutionLayer:
    tables, window = now.tables, window_of(now.layer)
    assert tables is not None
    if window.stride == (1, 1):
        group, distance = tables.group, tap_distances(window, tables.tap, given.pitch)
    else:
        phases = phases_of(window, source.size)
        row, column = tables.tap.T
        group = tables.group * len(phases.phases) + phases.phase[row, column]
        distance = tap_distances(phases.window, phases.tap[row, column], given.pitch)
    grid = given.holding(window.output(source.size))
    neurons = neurons_of(now.layer, tables.offset)
    return ConvolutionLayer(
        now.name,
        len(now.layer.threshold),
        grid,
        False,
        neurons.reshape(-1, CHANNELS, 3),
        tables,
        group * given.length + given.before + distance,
    )


def _rearrangement(layer: Spiking, producer: Operation, grid: Grid) -> Rearrangement:
    window = window_of(layer)
    phases = phases_of(window, producer.grid.size)
    copies = len(phases.phases)
    rows = phase_rows(phases, window, producer.grid, grid)
    return Rearrangement(
        "", groups_of(producer.channels) * CHANNELS * copies, grid, False, rows, window.stride[1], copies
    )


def _dense(now: Weights, producer: Operation, grid: Grid) -> DenseLayer:
    assert now.codes is not None
    channels, source = producer.channels, producer.grid
    height, width = source.size
    codes = padded(now.codes, 0).T.reshape(channels, height, width, -1)
    laid_out = np.zeros((groups_of(channels) * CHANNELS, *source.pitch, codes.shape[-1]), np.int8)
    laid_out[:channels, :height, :width] = codes
    by_place = laid_out.reshape(-1, CHANNELS, source.image_places, codes.shape[-1]).swapaxes(1, 2)
    neurons = neurons_of(now.layer)
    sums = np.dtype(np.int16) if now.layer.largest_sum <= np.iinfo(np.int16).max else neurons.dtype
    return DenseLayer(
        now.name, len(now.layer.threshold), grid, True, source, np.ascontiguousarray(by_place), neurons, sums
    )
