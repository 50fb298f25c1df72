"""Which operations a network comes to where spikes are looked up in tables."""

from __future__ import annotations

import numpy as np

from fxsnn.engine.circuit import Circuit
from fxsnn.engine.layout import Layout, flattened_source
from fxsnn.engine.lookups import Array, Term, Weights, membrane_type, neurons_of
from fxsnn.engine.operations import (
    ConvolutionLayer,
    DenseLayer,
    ImageLayer,
    PlaneOperation,
    Rearrangement,
    Rewiring,
    SumLayer,
)
from fxsnn.engine.planes import phase_rows, phases_of, tap_distances
from fxsnn.engine.tables import ConvolutionTables, groups_of, padded
from fxsnn.engine.wires import wires_of
from fxsnn.layers import SpikeAdd, SpikeAnyPool2d, SpikeLinear, Spiking


class LookupPlanner:
    """Makes one operation after the other.

    Args:
        circuit: the circuit.
        layout: of its values.
        images: how many images the operations are for.
    """

    def __init__(self, circuit: Circuit, layout: Layout, images: int) -> None:
        self._circuit, self._layout, self._images = circuit, layout, images
        self._how, self._per_byte = layout.how, layout.how.per_byte
        self.operations: list[PlaneOperation] = []
        self.numbers: dict[int, int] = {}

    def wiring(self, call: int) -> None:
        """Spikes that are only put elsewhere."""
        inputs = self._circuit.calls[call].inputs
        grids = [self._layout.grid(one, self._images) for one in inputs]
        given = [(self._layout.channels(one), grid) for one, grid in zip(inputs, grids, strict=True)]
        grid = self._layout.grid(call, self._images)
        numbers = self._layout.wires[call]
        wires = wires_of(numbers.reshape(len(numbers), *grid.size), given, grid, self._per_byte)
        between = np.array([one.image_places for one in grids], np.int64)
        own, read = len(self.operations), tuple(self.numbers[one] for one in inputs)
        self.numbers[call] = own
        self.operations.append(Rewiring("", own, read, len(numbers), grid, self._flat(call), wires, between))

    def layer(self, call: int, weights: Weights) -> None:
        """A layer with neurons, and what is rearranged for it."""
        grid = self._layout.grid(call, self._images)
        channels, flat = len(weights.layer.threshold), self._flat(call)
        found = [
            (term, tables, *self._given(term, tables, call))
            for term in weights.terms
            if isinstance(tables := term.tables, ConvolutionTables)
        ]
        plain = [term for term in weights.terms if term.tables is None]
        inputs = (*(number for _, _, number, _ in found), *(self.numbers[term.source] for term in plain))
        own = len(self.operations)
        of_layer = (weights.name, own, inputs, channels, grid, flat)
        self.numbers[call] = own
        if isinstance(weights.layer, SpikeLinear) and not weights.read_images:
            self.operations.append(self._dense(call, weights, own))
            return
        summed = isinstance(weights.layer, SpikeAdd)
        offset = sum(padded(term.gain, 0, self._per_byte) * tables.offset for term, tables, *_ in found)
        neurons = self._grouped(weights.layer, 1 if summed else weights.layer.gain, offset)
        if not found:
            self.operations.append(ImageLayer(*of_layer, neurons, self._how))
        elif not summed:
            ((_, tables, _, sources),) = found
            own_reset = isinstance(weights.layer, SpikeAnyPool2d)
            self.operations.append(ConvolutionLayer(*of_layer, neurons, self._how, tables, sources, own_reset))
        else:
            gains = np.array([padded(term.gain, 0, self._per_byte) for term in plain], neurons.dtype)
            self.operations.append(
                SumLayer(
                    *of_layer,
                    neurons,
                    self._how,
                    tuple(tables for _, tables, *_ in found),
                    tuple(sources for *_, sources in found),
                    np.stack([self._grouped(weights.layer, term.gain) for term, *_ in found]),
                    np.ascontiguousarray(gains.reshape(len(plain), len(neurons), self._per_byte)),
                    tuple(self._layout.grid(term.source, self._images).before for term in plain),
                    weights.read_images,
                )
            )

    def _flat(self, call: int) -> bool:
        return len(self._layout.shapes[call]) == 1

    def _given(self, term: Term, tables: ConvolutionTables, call: int) -> tuple[int, Array]:
        """The operation whose spikes a term reads, and where in them it finds those of the first place.

        Where a window has a stride, they are rearranged first, into the layout of the call's own spikes.
        """
        window = term.window
        source = self._layout.grid(term.source, self._images)
        if window.stride == (1, 1):
            distance = tap_distances(window, tables.tap, source.pitch)
            return self.numbers[term.source], tables.group * source.length + source.before + distance
        phases = phases_of(window, source.size)
        grid = self._layout.sections[call].grid(self._images, self._how.lanes, phases.size)
        copies, number = len(phases.phases), len(self.operations)
        channels = groups_of(self._layout.channels(term.source), self._per_byte) * self._per_byte * copies
        rows = phase_rows(phases, window, source, grid)
        self.operations.append(
            Rearrangement(
                "", number, (self.numbers[term.source],), channels, grid, False, rows, window.stride[1], copies
            )
        )
        row, column = tables.tap.T
        group = tables.group * copies + phases.phase[row, column]
        distance = tap_distances(phases.window, phases.tap[row, column], grid.pitch)
        return number, group * grid.length + grid.before + distance

    def _dense(self, call: int, weights: Weights, number: int) -> DenseLayer:
        assert weights.codes is not None
        read = flattened_source(self._circuit, self._circuit.calls[call].inputs[0])
        source, channels = self._layout.grid(read, self._images), self._layout.channels(read)
        codes = padded(weights.codes, 0, self._per_byte).T.reshape(channels, *source.size, -1)
        laid_out = padded(np.zeros((channels, *source.pitch, codes.shape[-1]), np.int8), 0, self._per_byte)
        laid_out[:channels, : source.size[0], : source.size[1]] = codes
        by_place = laid_out.reshape(-1, self._per_byte, source.image_places, codes.shape[-1]).swapaxes(1, 2)
        layer = weights.layer
        neurons = neurons_of(layer, self._per_byte, layer.gain)
        sums = np.dtype(np.int16) if layer.largest_sum <= np.iinfo(np.int16).max else membrane_type(layer)
        return DenseLayer(
            weights.name,
            number,
            (self.numbers[read],),
            len(layer.threshold),
            self._layout.grid(call, self._images),
            True,
            source,
            np.ascontiguousarray(by_place),
            neurons,
            sums,
        )

    def _grouped(self, layer: Spiking, gain: Array | int, offset: Array | int = 0) -> Array:
        """`neurons_of` by groups of channels: [groups, channels of a group, 3]."""
        return neurons_of(layer, self._per_byte, gain, offset).reshape(-1, self._per_byte, 3)
