"""The memory of operations on tiles, and how they run: many layers in one compiled call, see `tile_kernels`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import prod
from typing import Any

import numpy as np

from fxsnn.engine import tile_kernels as kernels
from fxsnn.engine.lookups import Array
from fxsnn.engine.operations import Piece, starts_of
from fxsnn.engine.planning import Plan
from fxsnn.engine.tables import padded
from fxsnn.engine.tile_code import ROWS, TILE
from fxsnn.engine.tile_codes import shapes_of_tiles
from fxsnn.engine.tile_operations import BEFORE, SPARE, TileLayer, TileWiring
from fxsnn.engine.workspaces import OfImages, Workspace, aligned_bytes
from fxsnn.numerics import Dynamics

_CODES = 1 << 16
"""Bytes of codes that serve a tile of rows before the next one."""


@dataclass(frozen=True, eq=False)
class Program:
    """What `fire_layers` is given that does not change, of all layers of a plan; and the rows of each layer.

    Attributes:
        layers: see `fire_layers`.
        rows: of each operation its row in `layers`; -1 of wiring.
        maps: see `fire_layers`.
        sources: see `fire_layers`.
        offsets: see `fire_layers`.
        codes: see `fire_layers`.
        bounds: see `fire_layers`.
        gains: see `fire_layers`.
        outputs: see `fire_layers`.
        tiles: see `fire_layers`.
        empty: see `fire_layers`.
        membranes: how many there are, if they are kept.
        drives: elements of all drives.
        kind: of all membranes.
    """

    layers: Array
    rows: tuple[int, ...]
    maps: Array
    sources: Array
    offsets: Array
    codes: Array
    bounds: Array
    gains: Array
    outputs: Array
    tiles: Array
    empty: Array
    membranes: int
    drives: int
    kind: np.dtype[Any]

    @property
    def arrays(self) -> tuple[Array, ...]:
        """All of them, in the order of `count_of_images`."""
        tables = self.layers, self.maps, self.sources, self.offsets, self.codes, self.bounds
        return *tables, self.gains, self.outputs, self.tiles, self.empty


class _Strings:
    """Arrays one behind the other."""

    def __init__(self) -> None:
        self._parts: list[Array] = []
        self.length = 0

    def add(self, values: Array) -> int:
        """Where these begin."""
        self._parts.append(values)
        self.length += len(values)
        return self.length - len(values)

    def joined(self, kind: Any, *shape: int) -> Array:
        """All of them; elements of that shape."""
        parts = self._parts or [np.zeros((0, *shape))]
        return np.ascontiguousarray(np.concatenate(parts).astype(kind, copy=False))


def program_of(plan: Plan, *, kept: bool, frames: int) -> Program:
    """The program of a plan.

    Args:
        plan: of tiles.
        kept: membranes are needed behind its steps.
        frames: steps of the drives; 1 where they are the same at every step.
    """
    layers = [one for one in plan.operations if isinstance(one, TileLayer)]
    kind = np.result_type(*(one.leak.dtype for one in layers))
    places, shapes, steps = plan.places(), plan.shapes, plan.steps
    maps, sources, offsets, codes, bounds, gains = (_Strings() for _ in range(6))
    outputs, tiles, empty = (_Strings() for _ in range(3))
    table, membranes, drives, neurons = [], 0, 0, 0
    for layer in layers:
        channels = layer.width // ROWS
        first_term, first_source, first_bound = maps.length, sources.length, bounds.length
        for term in layer.terms:
            begin = places.origins[term.input] + BEFORE * steps * term.row
            maps.add(np.array([[begin, steps * term.row, term.apart]]))
            sources.add(term.first)
            bounds.add(term.products.bounds + offsets.add(term.offsets))
            codes.add(term.products.codes)
        first_gain = gains.length
        for term in layer.terms:
            gains.add(padded(term.gain, 0, ROWS))
        first_tile = tiles.add(layer.tiles.reshape(-1))
        outputs.add(layer.outputs.reshape(-1))
        origin, (row, _) = places.origins[layer.number], shapes[layer.number]
        cleared = layer.empty * steps * row + origin if places.shared[layer.number] else np.zeros((0, 2), np.int64)
        first_empty = empty.add(cleared)
        outputs_of_all = plan.images * layer.places.shape[1]
        driven = layer.image_gain is not None
        table.append(
            (
                *(first_term, len(layer.terms), first_source, first_bound, first_gain),
                *(first_tile, *layer.tiles.shape, channels, _pairs_together(layer), neurons, membranes if kept else -1),
                *(drives if driven else -1, outputs_of_all * layer.width if driven and frames > 1 else 0),
                *(layer.zero_reset, first_empty, empty.length),
                *(origin + BEFORE * steps * row, steps * row, row, layer.copies),
            )
        )
        neurons += 3 * layer.width
        membranes += layer.width * layer.tiles.size if kept else 0
        drives += frames * outputs_of_all * layer.width if driven else 0
    numbers_of = iter(range(len(layers)))
    return Program(
        np.array(table, kernels.LAYER),
        tuple(next(numbers_of) if isinstance(one, TileLayer) else -1 for one in plan.operations),
        maps.joined(np.int64, 3),
        sources.joined(np.int64),
        offsets.joined(np.int64),
        _aligned(codes.joined(np.int8, 2, TILE)),
        bounds.joined(np.int64),
        gains.joined(kind),
        outputs.joined(np.int64),
        tiles.joined(np.int64),
        empty.joined(np.int64, 2),
        membranes,
        drives,
        kind,
    )


def _aligned(values: Array) -> Array:
    """A copy that begins a line of the cache."""
    copied = aligned_bytes(values.nbytes).view(values.dtype).reshape(values.shape)
    copied[...] = values
    return copied


def _pairs_together(layer: TileLayer) -> int:
    """Pairs of tiles of channels whose codes stay in the first cache together."""
    products = sum(len(term.offsets) for term in layer.terms)
    pairs = -(-layer.width // (2 * ROWS))
    return max(1, min(pairs, _CODES * pairs // (max(products, 1) * 2 * TILE)))


class TileWorkspace(Workspace):
    """The memory of operations on tiles.

    Args:
        plan: what runs.
        kept: membranes are needed behind its steps.
        frames: steps of the drives; 1 where they are the same at every step.
    """

    def __init__(self, plan: Plan, *, kept: bool, frames: int) -> None:
        super().__init__(plan)
        self._operations: list[Any] = list(plan.operations)
        if (kept, frames) not in plan.made:
            plan.made[kept, frames] = program_of(plan, kept=kept, frames=frames)
        program: Program = plan.made[kept, frames]
        self._program, self._frames = program, frames
        self._membranes = np.zeros(program.membranes, program.kind)
        self._drives = np.zeros(program.drives, program.kind)
        self._images = {
            one.number: aligned_bytes(one.image_term.length * one.image_term.row)
            for one in self._operations
            if isinstance(one, TileLayer) and one.image_term is not None
        }
        calls = {number: call for call, number in plan.numbers.items()}
        self._driven = [
            (calls[one.number], one)
            for one in self._operations
            if isinstance(one, TileLayer) and one.image_gain is not None
        ]
        self._whole_tiles = shapes_of_tiles(ROWS)
        self._gains = {one.number: self._in_tiles(one.image_gain) for _, one in self._driven}
        self._neurons: dict[bool, Array] = {}
        self._shapes: dict[int, Array] = {}

    def drive(self, given: OfImages) -> Mapping[int, Array]:
        """See `Workspace`; all of them are kept here."""
        for call, layer in self._driven:
            if layer.image_term is not None:
                self._multiply_images(layer, given.bytes_of(call))
                continue
            gain, drives = self._gains[layer.number], self._drive(layer)
            for frame, one in enumerate(given.sums(call).contiguous().numpy()):
                kernels.scale(one, gain, drives[frame])
        return {}

    def _drive(self, layer: TileLayer) -> Array:
        """What images add to a layer, [steps, images, outputs, channels of whole tiles]."""
        begin = self._first_drive(layer)
        shape = (self._frames, *layer.places.shape, layer.width)
        return self._drives[begin : begin + prod(shape)].reshape(shape)

    def _first_drive(self, layer: TileLayer) -> int:
        return int(self._program.layers["first_drive"][self._program.rows[layer.number]])

    def _multiply_images(self, layer: TileLayer, given: Array) -> None:
        """Fill the drive of a layer from whole numbers of 8 bits, int8 [steps, images, channels, places]."""
        of, memory = layer.image_term, self._images[layer.number]
        assert of is not None
        for one, drive in zip(given, self._drive(layer), strict=True):
            kernels.lay_out_images(one, of.places, memory, of.row, of.width, of.copies)
            kernels.sum_over_images(
                self._whole_tiles, memory, of.row, of.apart, of.first, of.offsets, of.products.codes,
                of.products.bounds, of.rows, self._gains[layer.number], drive.reshape(-1, layer.width),
            )  # fmt: skip

    def _in_tiles(self, rows: Array | None, fill: float = 0) -> Array:
        """[rows, C] as [rows, channels of whole tiles], of the membranes' type."""
        assert rows is not None
        return np.ascontiguousarray(padded(rows.astype(self._program.kind).T, fill, ROWS).T)

    @property
    def _never(self) -> float:
        """A threshold for what is no neuron."""
        kind = self._program.kind
        return float(np.finfo(kind).max) if kind.kind == "f" else int(np.iinfo(kind).max)

    def _neurons_of(self, dynamics: Dynamics) -> Array:
        """Leak, threshold and start of all layers, see `fire_layers`."""
        key = bool(dynamics.initial_membrane)
        if key not in self._neurons:
            found = []
            for layer in self._operations:
                if isinstance(layer, TileLayer):
                    threshold = self._in_tiles(layer.threshold[None], self._never)
                    rows = [self._in_tiles(layer.leak[None]), threshold, starts_of(threshold, dynamics)]
                    found.append(np.concatenate(rows).reshape(3, -1, ROWS).swapaxes(0, 1).reshape(-1))
            self._neurons[key] = np.concatenate(found)
        return self._neurons[key]

    def _shapes_of(self, steps: int) -> Array:
        """Of the tiles of each layer, see `fire_layers`."""
        if steps not in self._shapes:
            layers = (one for one in self._operations if isinstance(one, TileLayer))
            self._shapes[steps] = np.stack([shapes_of_tiles(one.tiles.shape[1] * steps) for one in layers])
        return self._shapes[steps]

    @property
    def counts_alone(self) -> bool:
        """See `Workspace`: with one layer on images, and nothing but layers with neurons."""
        layers = all(isinstance(one, TileLayer) for one in self._operations)
        return layers and self._frames == 1 and [one.image_term is not None for _, one in self._driven] == [True]

    def count(self, given: OfImages, dynamics: Dynamics, counts: Array) -> None:
        """See `Workspace`."""
        ((call, layer),), last = self._driven, self._operations[-1]
        of, drive = layer.image_term, self._drive(layer)
        assert of is not None
        reading = (
            of.places, self._images[layer.number], of.row, of.width, of.copies,
            self._whole_tiles, of.apart, of.first, of.offsets, of.products.codes, of.products.bounds,
            of.rows, self._gains[layer.number], self._first_drive(layer), drive.size // layer.width,
        )  # fmt: skip
        row, room, steps = last.row, self.plan.steps, dynamics.timesteps
        decoded = np.array([self.origins[last.number] + BEFORE * room * row, room * row, row], np.int64)
        kernels.count_of_images(
            given.bytes_of(call)[0], reading, self._program.arrays, self._neurons_of(dynamics), self._shapes_of(room),
            self._shapes_of(steps % room or room), steps, room, dynamics.reset == "zero",
            self.memory, self._membranes, self._drives, decoded, last.places, counts,
        )  # fmt: skip

    def run(self, piece: Piece, numbers: range, extremes: Array | None) -> None:
        """See `Workspace`."""
        for wiring, some in groupby(numbers, lambda number: self._program.rows[number] < 0):
            if wiring:
                for number in some:
                    self._wire(self._operations[number], piece)
            else:
                self._fire([self._program.rows[number] for number in some], piece, extremes)

    def _fire(self, rows: Sequence[int], piece: Piece, extremes: Array | None) -> None:
        """Run layers that follow each other."""
        program, part = self._program, slice(rows[0], rows[-1] + 1)
        reached = None
        if extremes is not None:
            channels = program.layers["channels"][rows[0]]
            reached = np.empty((channels, 2, ROWS), program.kind)
            reached[:, 0], reached[:, 1] = self._never, -self._never
        kernels.fire_layers(
            program.layers[part], self._shapes_of(piece.steps)[part], piece.steps, piece.memory, program.maps,
            program.sources, program.offsets, program.codes, program.bounds, program.gains,
            self._neurons_of(piece.dynamics), self._drives, piece.start if self._frames > 1 else 0, program.outputs,
            program.tiles, self._membranes, piece.fresh, piece.dynamics.reset == "zero", program.empty, reached,
        )  # fmt: skip
        if extremes is not None and reached is not None:
            layer = self._operations[program.rows.index(rows[0])]
            low, high = (reached[:, one].reshape(-1)[: layer.channels] for one in (0, 1))
            extremes[0], extremes[1] = min(extremes[0], low.min()), max(extremes[1], high.max())

    def _wire(self, wiring: TileWiring, piece: Piece) -> None:
        """Put spikes elsewhere."""
        row, places = piece.shapes[wiring.number]
        size, origin = piece.room * row, piece.origins[wiring.number]
        piece.memory[origin : origin + places * size] = 0
        maps = [
            (piece.origins[one] + BEFORE * piece.room * given, piece.room * given, given)
            for one, (given, _) in ((one, piece.shapes[one]) for one in wiring.inputs)
        ]
        begins = np.array([begin for begin, _, _ in maps], np.int64)
        between = np.array([[apart, *one[1:]] for apart, one in zip(wiring.between, maps, strict=True)], np.int64)
        written = np.array([origin + BEFORE * size, wiring.grid.image_places, size, row], np.int64)
        kernels.wire_places(piece.memory, wiring.wires, begins, between, written, wiring.grid.images, piece.steps)
        if wiring.copies > 1:
            kernels.repeat_places(
                piece.memory, origin, size, row, wiring.grid.length + SPARE, piece.steps, wiring.width, wiring.copies
            )

    def kind(self, number: int) -> np.dtype[Any]:
        """See `Workspace`."""
        return self._program.kind

    def start(self, images: Array, dynamics: Dynamics) -> None:
        """See `Workspace`."""
        for layer in self._operations:
            if isinstance(layer, TileLayer):
                begin = self._program.layers["first_membrane"][self._program.rows[layer.number]]
                shape = (layer.width // ROWS, *layer.tiles.shape, ROWS)
                own = self._membranes[begin : begin + prod(shape)].reshape(shape)
                of_image = np.isin(layer.outputs // layer.places.shape[1], images) & (layer.tiles >= 0)
                thresholds = self._in_tiles(layer.threshold[None], self._never).reshape(-1, ROWS)
                own[:, of_image] = starts_of(thresholds, dynamics)[:, None]
