"""Which operations a network comes to where tiles of spikes are multiplied, see `tile_code`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fxsnn.engine.circuit import Circuit
from fxsnn.engine.layout import Layout, Section, flattened_source, row_of
from fxsnn.engine.lookups import Array, Term, Weights, leak_of, membrane_type, window_of
from fxsnn.engine.planes import Grid, Pair, Window, tap_distances
from fxsnn.engine.tile_code import ROW, ROWS
from fxsnn.engine.tile_codes import TileCodes, tiles_of
from fxsnn.engine.tile_operations import (
    BEFORE,
    ImageTerm,
    TileLayer,
    TileOperation,
    TileTerm,
    TileWiring,
)
from fxsnn.layers import SpikeAdd, SpikeAnyPool2d, SpikeConv2d, SpikeLinear

_LARGEST_MAGNITUDE = 128
"""Whole numbers of 8 bits reach from there, below 0, to one less."""


class TilePlanner:
    """Makes one operation after the other.

    Args:
        circuit: the circuit.
        weights: of its layers with neurons.
        layout: of its values.
        images: how many images the operations are for.
        steps: for how many steps there is memory.
    """

    def __init__(
        self, circuit: Circuit, weights: Mapping[int, Weights], layout: Layout, images: int, steps: int
    ) -> None:
        self._circuit, self._layout, self._images, self._steps = circuit, layout, images, steps
        self._copies = _copies(circuit, weights, layout)
        self.operations: list[TileOperation] = []
        self.numbers: dict[int, int] = {}

    def wiring(self, call: int) -> None:
        """Spikes that are only put elsewhere."""
        inputs = self._circuit.calls[call].inputs
        grids = [self._layout.grid(one, self._images) for one in inputs]
        grid, numbers = self._layout.grid(call, self._images), self._layout.wires[call]
        given = [(self._layout.channels(one), source) for one, source in zip(inputs, grids, strict=True)]
        wires = wires_of(numbers.reshape(len(numbers), *grid.size), given, grid)
        between = np.array([one.image_places for one in grids], np.int64)
        own, read = len(self.operations), tuple(self.numbers[one] for one in inputs)
        self.numbers[call] = own
        copies = self._copies.get(call, 1)
        self.operations.append(TileWiring("", own, read, len(numbers), grid, self._flat(call), copies, wires, between))

    def layer(self, call: int, weights: Weights) -> None:
        """A layer with neurons."""
        layer, grid = weights.layer, self._layout.grid(call, self._images)
        kind, channels = membrane_type(layer), len(layer.threshold)
        dense = isinstance(layer, SpikeLinear) and not weights.read_images
        together, strided = max(1, ROWS // self._steps), any(term.window.stride != (1, 1) for term in weights.terms)
        if dense and (grid.image_places, self._source(call).image_places) != (1, 1):
            together = 1
        elif strided:  # rows of a tile lie at equal distances, and not further behind the map than there is memory
            across = max(term.window.stride[1] for term in weights.terms)
            together = -(-ROWS // across) if self._steps == 1 else 1
        tiles = tiles_over(grid.places(), together, rows=strided)
        own = len(self.operations)
        if dense:
            terms = [self._dense(call, weights, tiles)]
        else:
            terms = [self._term(term, call, tiles[:, 0]) for term in weights.terms]
        leak, image_gain = leak_of(layer).astype(kind), None
        if weights.read_images:
            gain = 1 if isinstance(layer, SpikeAdd) else layer.gain
            image_gain = np.stack([np.full_like(leak, gain), np.zeros_like(leak) if terms else leak])
            leak = leak if terms else np.zeros_like(leak)
        self.numbers[call] = own
        self.operations.append(
            TileLayer(
                weights.name,
                own,
                tuple(term.input for term in terms),
                channels,
                grid,
                self._flat(call),
                self._copies.get(call, 1),
                tuple(terms),
                leak,
                layer.threshold.numpy().astype(kind),
                image_gain,
                self._images_of(call, weights) if weights.read_images else None,
                tiles,
                isinstance(layer, SpikeAnyPool2d),
            )
        )

    def _images_of(self, call: int, weights: Weights) -> ImageTerm | None:
        """How images are multiplied, where they are whole numbers of 8 bits and are read by a convolution."""
        layer: Any = weights.layer
        magnitude = layer.input_magnitude
        if not isinstance(layer, SpikeConv2d) or magnitude is None or magnitude > _LARGEST_MAGNITUDE:
            return None
        (read,) = self._circuit.calls[call].inputs
        window, (channels, height, width) = window_of(layer), self._layout.shapes[read]
        section = Section((height, width))
        section.read_in_strides((height, width), window)
        source = section.grid(self._images, 1, (height, width))
        copies = _room(channels, window.kernel[1]) if window.dilation[1] == 1 else 1
        if call not in self._layout.codes:
            self._layout.codes[call] = TileCodes(layer.codes.numpy(), layer.groups)
        products, row = self._layout.codes[call].products(copies), row_of(self._layout.how, channels)
        read_at, across = origins_of(window, source, window.output((height, width))), window.stride[1]
        found = tiles_over(read_at, ROWS, rows=window.stride != (1, 1), across=across)
        numbers = np.zeros(source.length, np.int64)
        numbers[read_at.reshape(-1)] = np.arange(read_at.size)
        return ImageTerm(
            row,
            row * across,
            found[:, 0] + BEFORE,
            tap_distances(window, products.tap, source.pitch) * row + products.chunk * ROW,
            products,
            source.places().reshape(self._images, -1) + BEFORE,
            source.length + BEFORE + (ROWS - 1) * across,
            tiles_of(channels) * ROWS,
            copies,
            np.where(found < 0, -1, numbers[np.maximum(found, 0)]),
        )

    def _flat(self, call: int) -> bool:
        return len(self._layout.shapes[call]) == 1

    def _source(self, call: int) -> Grid:
        """The layout of what a fully connected layer reads."""
        return self._layout.grid(flattened_source(self._circuit, self._circuit.calls[call].inputs[0]), self._images)

    def _dense(self, call: int, weights: Weights, tiles: Array) -> TileTerm:
        """A fully connected layer, as a convolution whose window is the whole map."""
        read = flattened_source(self._circuit, self._circuit.calls[call].inputs[0])
        source, channels = self._layout.grid(read, self._images), self._layout.channels(read)
        if call not in self._layout.codes:
            assert weights.codes is not None
            codes = weights.codes.reshape(len(weights.codes), channels, *source.size)
            self._layout.codes[call] = TileCodes(codes, 1)
        image = np.searchsorted(self._layout.grid(call, self._images).places().reshape(-1), tiles[:, 0])
        first = source.places()[:, 0, 0][image]
        gain = np.full(len(weights.layer.threshold), weights.layer.gain, np.int64)
        return self._read(read, self._layout.codes[call], gain, Window(source.size), source, first)

    def _term(self, term: Term, call: int, first: Array) -> TileTerm:
        """Spikes that a layer reads."""
        assert isinstance(term.tables, TileCodes)
        source = self._layout.grid(term.source, self._images)
        if term.window.stride != (1, 1):
            grid = self._layout.grid(call, self._images)
            numbers = np.searchsorted(grid.places().reshape(-1), first)
            first = origins_of(term.window, source, grid.size).reshape(-1)[numbers]
        return self._read(term.source, term.tables, term.gain, term.window, source, first)

    def _read(self, read: int, codes: TileCodes, gain: Array, window: Window, source: Grid, first: Array) -> TileTerm:
        """A window over the spikes of a call, see `TileTerm`."""
        row = row_of(self._layout.how, self._layout.channels(read))
        copies = self._copies.get(read, 1) if window.dilation[1] == 1 and window.kernel[1] > 1 else 1
        products = codes.products(copies)
        offsets = tap_distances(window, products.tap, source.pitch) * self._steps * row + products.chunk * ROW
        apart = row * (window.stride[1] if self._steps == 1 else 1)
        return TileTerm(self.numbers[read], row, apart, first, offsets, products, gain)


def _copies(circuit: Circuit, weights: Mapping[int, Weights], layout: Layout) -> dict[int, int]:
    """For calls of few channels, how often spikes are written, so that a product has several taps of a window."""
    found: dict[int, int] = {}

    def read(source: int, width: int) -> None:
        found[source] = max(found.get(source, 1), _room(layout.channels(source), width))

    for call, one in weights.items():
        for term in one.terms:
            if term.window.dilation[1] == 1:
                read(term.source, term.window.kernel[1])
        if one.codes is not None and not one.read_images:
            source = flattened_source(circuit, circuit.calls[call].inputs[0])
            read(source, layout.size(source)[1])
    return found


def _room(channels: int, width: int) -> int:
    """How often the spikes of so many channels fit into a row, for a window so wide."""
    return max(1, min(ROW // (tiles_of(channels) * ROWS), width))


def origins_of(window: Window, source: Grid, outputs: Pair) -> Array:
    """For each output of a window where in what it reads the place lies from which its taps are counted.

    Args:
        window: the window.
        source: layout of what it reads.
        outputs: height and width of the outputs.

    Returns:
        int64 [images, height, width].
    """
    image, row, column = np.ogrid[: source.images, : outputs[0], : outputs[1]]
    down, across = window.stride
    places: Array = (image * source.pitch[0] + row * down) * source.pitch[1] + column * across + source.before
    return places


def tiles_over(places: Array, together: int, *, rows: bool, across: int = 1) -> Array:
    """Places that are computed together, [tiles, together]; -1 for what is no neuron.

    Args:
        places: of all neurons of a channel, [images, height, width].
        together: how many places a tile has.
        rows: those of a tile are of one row of a map.
        across: from one place to the next.
    """
    if together == 1:
        return np.sort(places.reshape(-1))[:, None]
    found = []
    for part in places.reshape(-1, places.shape[2]) if rows else [np.sort(places.reshape(-1))]:
        begin, there = 0, set(part.tolist())
        while begin < len(part):
            tile = range(part[begin], part[begin] + together * across, across)
            found.append([place if place in there else -1 for place in tile])
            begin = int(np.searchsorted(part, part[begin] + together * across))
    return np.array(found, np.int64)


def wires_of(numbers: Array, given: list[tuple[int, Grid]], target: Grid) -> Array:
    """The wires of one image, each of neighbouring channels.

    Args:
        numbers: int64 [C, height, width], the number of the spike that each output is, counted through the maps that
            are given, from 1 on; 0 where there is never a spike.
        given: channels and layout of these maps.
        target: layout of the outputs.

    Returns:
        int64 [wires, 6], see `wire_places`.
    """
    row, column, channel = np.nonzero(numbers.transpose(1, 2, 0))
    number = numbers[channel, row, column] - 1
    starts = np.cumsum([0, *(channels * grid.size[0] * grid.size[1] for channels, grid in given)])
    which = np.searchsorted(starts, number, side="right") - 1
    source, read = np.zeros_like(number), np.zeros_like(number)
    for one, (_, grid) in enumerate(given):
        chosen = which == one
        read[chosen], inside = np.divmod(number[chosen] - starts[one], grid.size[0] * grid.size[1])
        down, across = np.divmod(inside, grid.size[1])
        source[chosen] = grid.before + down * grid.pitch[1] + across
    written = target.before + row * target.pitch[1] + column
    kept = np.stack([which, source, written])
    follows = (kept[:, 1:] == kept[:, :-1]).all(axis=0) & (np.diff(read) == 1) & (np.diff(channel) == 1)
    begins = np.flatnonzero(np.concatenate([[True], ~follows])) if len(number) else np.zeros(0, np.int64)
    lengths = np.diff(np.append(begins, len(number)))
    columns = [which[begins], source[begins], read[begins], written[begins], channel[begins], lengths]
    return np.ascontiguousarray(np.stack(columns, axis=1), np.int64)
