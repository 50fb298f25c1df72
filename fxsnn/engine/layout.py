"""How large is what the calls of a circuit give, and which maps share a layout in the CPU engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import Any

import torch
from torch import nn

from fxsnn.engine.circuit import Circuit
from fxsnn.engine.instructions import Amx, InstructionSet
from fxsnn.engine.lookups import Array, Weights, window_of
from fxsnn.engine.planes import Grid, Pair, Window, phases_of, shared_grid
from fxsnn.engine.tables import groups_of
from fxsnn.engine.tile_codes import TileCodes
from fxsnn.errors import DataError
from fxsnn.layers import Encode, SpikeConv2d, SpikeLinear, SpikePool2d, SynapseConv2d, SynapseLinear, Wiring

Shape = tuple[int, ...]
"""Channels, height and width; or the number of features."""


class Section:
    """Maps that share a layout, because windows without stride read some of them and write others."""

    def __init__(self, size: Pair) -> None:
        self._sizes = [size]
        self._readers: list[tuple[Pair, Window]] = []
        self._joined: Section | None = None

    @property
    def _whole(self) -> Section:
        return self if self._joined is None else self._joined._whole

    def join(self, other: Section) -> None:
        """From now on, the two are one."""
        whole, taken = self._whole, other._whole
        if whole is not taken:
            whole._sizes += taken._sizes
            whole._readers += taken._readers
            taken._joined = whole

    def read(self, size: Pair, window: Window) -> None:
        """A window without stride reads a map of that size."""
        self._whole._sizes.append(size)
        self._whole._readers.append((size, window))

    def read_in_strides(self, size: Pair, window: Window) -> None:
        """A window reads a map of that size; each output has a place, that of the input at its upper left."""
        self.read(size, window.reaching(size))
        (height, width), (down, across) = window.output(size), window.stride
        self._whole._sizes.append(((height - 1) * down + 1, (width - 1) * across + 1))

    def grid(self, images: int, lanes: int, size: Pair) -> Grid:
        """The layout of a map of that size."""
        return shared_grid(self._whole._sizes, self._whole._readers, images, lanes).holding(size)


@dataclass(frozen=True, eq=False)
class Layout:
    """Where the values of a circuit's calls lie.

    Attributes:
        how: the instruction set.
        shapes: of the value of each call.
        sections: of each call whose value is spikes in memory. There are none of sums, of what comes of images, and of
            what is flattened for fully connected layers alone.
        wires: for each of these that is wired, or flattened, where its spikes come from: int64 [C, ...], their numbers
            among all that the call reads, from 1 on; 0 for none.
        codes: of layers on images and fully connected ones whose codes are multiplied, by tiles.
    """

    how: InstructionSet
    shapes: tuple[Shape, ...]
    sections: dict[int, Section]
    wires: dict[int, Array] = field(default_factory=dict)
    codes: dict[int, TileCodes] = field(default_factory=dict)

    def size(self, number: int) -> Pair:
        """Height and width of a call's value."""
        return size_of(self.shapes[number])

    def channels(self, number: int) -> int:
        """Channels of a call's value, or features."""
        return self.shapes[number][0]

    def grid(self, number: int, images: int) -> Grid:
        """The layout of a call's spikes."""
        return self.sections[number].grid(images, self.how.lanes, self.size(number))

    @cached_property
    def widest(self) -> int:
        """Bytes that the spikes of one image and one step take behind the call where they take most."""
        rows = {one: row_of(self.how, self.channels(one)) for one in self.sections}
        return max(rows[one] * self.grid(one, 1).image_places for one in self.sections)


def row_of(how: InstructionSet, channels: int) -> int:
    """Bytes that the spikes of so many channels take at a place and a step."""
    return -(-channels // how.vector) * how.vector if isinstance(how, Amx) else groups_of(channels, how.per_byte)


def size_of(shape: Shape) -> Pair:
    """Height and width; features have one place each."""
    return (1, 1) if len(shape) == 1 else (shape[1], shape[2])


def flattened_source(circuit: Circuit, number: int) -> int:
    """What a call gives that is not a flatten, or what is flattened there."""
    while type(circuit.calls[number].module) is nn.Flatten:
        (number,) = circuit.calls[number].inputs
    return number


def layout_of(circuit: Circuit, weights: Mapping[int, Weights], shape: Shape, how: InstructionSet) -> Layout:
    """Lay out a circuit.

    Args:
        circuit: the circuit.
        weights: of its layers with neurons.
        shape: of what the encoder gives.
        how: the instruction set.

    Raises:
        DataError: the images have a size that a layer cannot take.
    """
    numbers: dict[int, Array] = {}
    shapes: list[Shape] = []
    for number in range(len(circuit.calls)):
        shapes.append(_shape(circuit, number, shapes, numbers) if number else shape)
        if min(shapes[-1]) < 1:
            raise DataError(f"the images are too small: they leave nothing behind {circuit.calls[number].name}")
    sections: dict[int, Section] = {}
    for number in _in_memory(circuit):
        size = size_of(shapes[number])
        sections[number] = here = Section(size)
        for term in weights[number].terms if number in weights else ():
            given = size_of(shapes[term.source])
            if term.window.stride == (1, 1):
                here.join(sections[term.source])
                here.read(given, term.window)
            elif isinstance(how, Amx):
                sections[term.source].read_in_strides(given, term.window)
            else:  # its input is copied in parts
                phases = phases_of(term.window, given)
                here.read(phases.size, phases.window)
    return Layout(how, tuple(shapes), sections, {one: numbers[one] for one in numbers if one in sections})


def _in_memory(circuit: Circuit) -> list[int]:
    """Calls whose values are spikes in memory, in order."""
    wanted = {len(circuit.calls) - 1}
    for number in reversed(range(len(circuit.calls))):
        call = circuit.calls[number]
        if isinstance(call.module, SpikeLinear):
            wanted.add(flattened_source(circuit, call.inputs[0]))
        elif number in wanted or type(call.module) is not nn.Flatten:
            wanted.update(call.inputs)
    kept = (SynapseConv2d, SynapseLinear)
    return [
        number
        for number, call in enumerate(circuit.calls)
        if number in wanted and not call.images and not isinstance(call.module, kept)
    ]


def _shape(circuit: Circuit, number: int, shapes: list[Shape], numbers: dict[int, Array]) -> Shape:
    """Shape of a call's value; of what is wired, `numbers` is given where it comes from."""
    call = circuit.calls[number]
    given = [shapes[one] for one in call.inputs]
    module: Any = call.module
    if isinstance(module, Wiring) or type(module) is nn.Flatten:
        numbers[number] = _numbers(call.name, module, given)
        return numbers[number].shape
    if isinstance(module, SpikeLinear | SynapseLinear):
        if (features := prod(given[0])) != module.in_features:
            before = circuit.calls[flattened_source(circuit, call.inputs[0])]
            gives = "it is given" if isinstance(before.module, Encode) else f"{before.name} gives"
            reads = f"{call.name} reads {module.in_features} features"
            raise DataError(f"{reads}; with images of this size {gives} {features}")
        return (module.out_features,)
    if isinstance(module, SpikeConv2d | SynapseConv2d):
        return (module.out_channels, *window_of(module).output(size_of(given[0])))
    if isinstance(module, SpikePool2d):
        return (given[0][0], *window_of(module).output(size_of(given[0])))
    if len(set(given)) > 1:
        found = ", ".join("x".join(map(str, one)) for one in given)
        raise DataError(f"with images of this size {call.name} would add up maps of {found}")
    return given[0]


def _numbers(name: str, module: nn.Module, given: list[Shape]) -> Array:
    """Where the outputs of a module that computes nothing come from, see `Layout`."""
    maps, before = [], 1
    for shape in given:
        maps.append(torch.arange(before, before + prod(shape), dtype=torch.float64).view(1, *shape))
        before += prod(shape)
    try:
        with torch.no_grad():
            found: Array = module(*maps)[0].to(torch.int64).numpy()
    except (RuntimeError, IndexError) as error:
        reason = next(iter(str(error).splitlines()), "")
        raise DataError(f"with images of this size {name} cannot join what it reads: {reason}") from error
    return found
