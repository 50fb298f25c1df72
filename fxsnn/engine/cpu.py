"""The CPU engine: table lookups instead of multiplications, compiled by numba, a few images at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from threadpoolctl import ThreadpoolController
from torch import Tensor

from fxsnn.engine import instructions, kernels
from fxsnn.engine.circuit import Circuit, Range, Recording, Unsupported, relying_on
from fxsnn.engine.instructions import Amx, InstructionSet
from fxsnn.engine.layout import Layout, Shape, layout_of
from fxsnn.engine.lookups import Array, weights_of
from fxsnn.engine.operations import Operation, Piece
from fxsnn.engine.planning import Plan, plan_of
from fxsnn.engine.tile_workspace import TileWorkspace
from fxsnn.engine.workspaces import OfImages, PlaneWorkspace, Workspace
from fxsnn.numerics import Dynamics

_STEPS_AT_ONCE = 16
"""Steps that a layer runs before the next one does; membranes are kept from one piece of time to the next."""
_CACHED = 1 << 15
"""Bytes of a layer's spikes and of a drive, for each byte of a vector: what passes between layers should stay in the
second cache, which is larger on processors with larger vectors. More images leave fewer places of a run unused."""
_DRIVE = 16
"""As many steps of spikes, four to a byte, take the room of a drive that is the same at every step."""
_WORDS = 4
"""As many steps of spikes, a byte each, take the room of a drive."""
_MOST_IMAGES = 64
_FRAMES_AT_ONCE = 256
"""Images times steps of which what frames drive is kept."""
_PORTION = 16
"""Images that a thread takes before it asks for further ones."""
_MOST_LAYOUTS = 4
"""Layouts that are kept, each for images of another size."""

_Key = tuple[Shape, int, int]
"""What the memory of a run depends on: shape of what the encoder gives, images taken together, timesteps."""


def chosen(name: str = "") -> InstructionSet:
    """The instruction set of that name; "" stands for the fastest that can be used here.

    Raises:
        Unsupported: it cannot be used here, or none can.
    """
    with relying_on("numba"):
        if reason := instructions.missing():
            raise Unsupported(reason)
        usable = instructions.usable()
    if name not in ("", *usable):
        raise Unsupported(f"the processor has no {name}, or numba is told not to use it")
    return usable[name] if name else next(iter(usable.values()))


def steps_of(timesteps: int) -> int:
    """How many steps a layer runs before the next one does."""
    return min(timesteps, _STEPS_AT_ONCE)


@dataclass(frozen=True, eq=False)
class Results:
    """What a run is asked for.

    Attributes:
        counts: spike counts of what is decoded, int32 [steps, N, channels, outputs]; one step stands for the whole run.
        totals: per layer, spike counts of the whole run, int32 [N, channels, outputs]; empty unless they are wanted.
        spikes: per layer, uint8 [T, N, channels, outputs]; empty unless they are wanted.
        ranges: per layer, what `extremes` of the kernels came to.
        per_byte: channels of a byte of spikes.
    """

    counts: Array
    totals: dict[str, Array]
    spikes: dict[str, Array]
    ranges: dict[str, list[Array]]
    per_byte: int

    def take(self, operation: Operation, planes: Array, places: Array, rows: slice, start: int) -> None:
        """Keep the spikes of the images `rows` from step `start` on."""
        if operation.name in self.totals:
            kernels.add_counts(self.per_byte, planes, places, self.totals[operation.name][rows])
        if operation.name in self.spikes:
            written = self.spikes[operation.name][start : start + len(planes), rows]
            kernels.unpack(self.per_byte, planes, places, written)

    def count(self, planes: Array, places: Array, rows: slice, start: int) -> None:
        """Add up the spikes of what is decoded."""
        if len(self.counts) == 1:
            kernels.add_counts(self.per_byte, planes, places, self.counts[0, rows])
            return
        for step in range(start, start + len(planes)):
            if step > 0:
                self.counts[step, rows] = self.counts[step - 1, rows]
            now = planes[step - start : step - start + 1]
            kernels.add_counts(self.per_byte, now, places, self.counts[step, rows])


def results_for(
    plan: Plan, images: int, timesteps: int, *, every_step: bool = False, recording: Recording | None = None
) -> Results:
    """Empty results for a number of images."""

    def shape(operation: Operation) -> tuple[int, int, int]:
        return images, operation.channels, operation.grid.size[0] * operation.grid.size[1]

    shapes = {operation.name: shape(operation) for operation in plan.operations if operation.name}
    counts = np.zeros((timesteps if every_step else 1, *shape(plan.operations[-1])), np.int32)
    totals = {name: np.zeros(shape, np.int32) for name, shape in shapes.items() if recording is not None}
    kept = shapes if recording is not None and recording.everything else {}
    spikes = {name: np.zeros((timesteps, *shape), np.uint8) for name, shape in kept.items()}
    return Results(counts, totals, spikes, {name: [] for name in kept}, plan.how.per_byte)


def _extremes(results: Results, operation: Operation, space: Workspace) -> Array | None:
    """Room for the smallest and the largest membrane, where they are wanted."""
    if operation.name not in results.ranges:
        return None
    if space.kind(operation.number).kind == "f":
        return np.array([np.inf, -np.inf])
    limits = np.iinfo(np.int64)
    return np.array([limits.max, limits.min])


def run_plan(
    space: Workspace,
    driven: Mapping[int, Array],
    rows: slice,
    dynamics: Dynamics,
    results: Results,
    *,
    fresh: bool = True,
) -> None:
    """Run all steps on some images.

    Args:
        space: memory for as many images.
        driven: of each operation that reads images, by its number, what these add, [T, images, channels, outputs]; one
            step stands for all.
        rows: which of the results are theirs.
        dynamics: T, reset and start.
        results: written.
        fresh: membranes start with the first of the steps; else they go on from where they are.
    """
    operations, shapes = space.plan.operations, space.plan.shapes
    for start in range(0, dynamics.timesteps, space.plan.steps):
        steps = min(space.plan.steps, dynamics.timesteps - start)
        here = {number: one if len(one) == 1 else one[start : start + steps] for number, one in driven.items()}
        piece = Piece(
            space.memory, space.origins, shapes, here, start, steps, space.plan.steps, fresh and start == 0, dynamics
        )
        if not results.totals and not results.spikes:
            space.run(piece, range(len(operations)), None)
        else:
            for operation in operations:
                extremes = _extremes(results, operation, space)
                space.run(piece, range(operation.number, operation.number + 1), extremes)
                results.take(operation, operation.spikes(piece), operation.places, rows, start)
                if extremes is not None:
                    results.ranges[operation.name].append(extremes)
        results.count(operations[-1].spikes(piece), operations[-1].places, rows, start)


class NumbaEngine:
    """Runs a circuit on the CPU.

    Each of PyTorch's threads takes the whole network through a few images at a time, so that what passes between layers
    stays in its cache. The memory of a run is kept for the next one.

    Args:
        circuit: the network.
        how: the instruction set.

    Raises:
        Unsupported: a layer does not fit the engine's integers.
    """

    name = "numba"
    images_at_once = 64

    def __init__(self, circuit: Circuit, how: InstructionSet) -> None:
        self._circuit, self._how = circuit, how
        self._weights = weights_of(circuit, how)
        self._idle: deque[tuple[_Key, Workspace]] = deque()
        self._layouts: dict[Shape, Layout] = {}
        self._planned: tuple[_Key, Plan] | None = None
        self._openmp = ThreadpoolController().select(user_api="openmp")

    def counts(self, images: Tensor, *, every_step: bool = False, recording: Recording | None = None) -> Tensor:
        """See `Engine`."""
        dynamics = self._circuit.decode.dynamics
        threads = min(torch.get_num_threads(), len(images))
        form = self._circuit.encode.form
        shape = form.size_of_layers(form.size_of(images))
        layout = self._layout(shape)
        together = images_together(layout, dynamics.timesteps, len(images), threads)
        if self._circuit.frames:
            together = min(together, max(1, _FRAMES_AT_ONCE // dynamics.timesteps))
        key = (shape, together, dynamics.timesteps)
        space = self._space(key, layout)
        self._idle.append((key, space))
        plan = space.plan
        results = results_for(plan, len(images), dynamics.timesteps, every_step=every_step, recording=recording)

        alone = space.counts_alone and recording is None and not every_step

        def run(start: int) -> None:
            rows = slice(start, min(start + portion, len(images)))
            given = OfImages(self._circuit, self._weights, images[rows])
            space = self._space(key, layout)
            with relying_on("numba"):
                if alone:
                    space.count(given, dynamics, results.counts[0, rows])
                else:
                    run_plan(space, space.drive(given), rows, dynamics, results)
            self._idle.append((key, space))

        portion = together
        if alone:
            portion *= max(1, min(_PORTION, -(-len(images) // threads)) // together)
        starts = range(0, len(images), portion)
        if min(threads, len(starts)) == 1:
            with self._openmp.limit(limits=1):
                for start in starts:
                    run(start)
        else:
            with ThreadPoolExecutor(threads, initializer=self._leave_openmp) as pool:
                list(pool.map(run, starts))
        if recording is not None:
            fill(recording, results, plan)
        counts = shaped(torch.from_numpy(results.counts), plan.operations[-1])
        return counts if every_step else counts[0]

    def _leave_openmp(self) -> None:
        """Let PyTorch's operators run in the thread that calls them.

        The threads here are enough for all cores, and those of OpenMP go on spinning for a while behind every operator.
        """
        torch.get_num_threads()  # PyTorch sets OpenMP's number of threads when a thread first asks for it
        self._openmp.limit(limits=1)

    def _layout(self, shape: Shape) -> Layout:
        """The layout for images of a size: an earlier one, if there were not many sizes since."""
        if (layout := self._layouts.get(shape)) is None:
            layout = layout_of(self._circuit, self._weights, shape, self._how)
            if len(self._layouts) >= _MOST_LAYOUTS:
                self._layouts.clear()
            self._layouts[shape] = layout
        return layout

    def _space(self, key: _Key, layout: Layout) -> Workspace:
        """Memory for one thread: that of an earlier run, if it was of the same kind."""
        try:
            while True:
                kept, space = self._idle.pop()
                if kept == key:
                    return space
        except IndexError:
            _, together, timesteps = key
            planned = self._planned
            if planned is None or planned[0] != key:
                plan = plan_of(self._circuit, self._weights, layout, together, steps_of(timesteps))
                planned = self._planned = (key, plan)
            return workspace_for(planned[1], self._circuit, timesteps)


def workspace_for(plan: Plan, circuit: Circuit, timesteps: int, *, kept: bool = False) -> Workspace:
    """Memory for a plan of a circuit; with `kept`, of all membranes, also where one piece of time is all there is."""
    kept = kept or timesteps > plan.steps
    if isinstance(plan.how, Amx):
        return TileWorkspace(plan, kept=kept, frames=timesteps if circuit.frames else 1)
    return PlaneWorkspace(plan, kept=kept or circuit.frames)  # layers that read frames run step by step


def images_together(layout: Layout, timesteps: int, images: int, threads: int) -> int:
    """How many images a thread should take at a time."""
    steps = steps_of(timesteps)
    if isinstance(layout.how, Amx):
        fit = _CACHED * layout.how.vector // (layout.widest * (2 * steps + _WORDS))
    else:
        fit = _CACHED * layout.how.vector // (layout.widest * (steps + _DRIVE))
    return max(1, min(fit, _MOST_IMAGES, -(-images // threads)))


def fill(recording: Recording, results: Results, plan: Plan) -> None:
    """Put what layers did where it was asked for."""
    for operation in plan.operations:
        name = operation.name
        if name in results.totals:
            recording.counts[name] = shaped(torch.from_numpy(results.totals[name])[None], operation)[0]
        if name in results.spikes:
            recording.spikes[name] = shaped(torch.from_numpy(results.spikes[name]), operation)
            recording.ranges[name] = _range(results.ranges[name])


def shaped(values: Tensor, operation: Operation) -> Tensor:
    """[steps, N, C, outputs] as [steps, N, C, H, W], or as [steps, N, C] behind a fully connected layer."""
    return values.squeeze(-1) if operation.flat else values.unflatten(-1, operation.grid.size)


def _range(extremes: list[Array]) -> Range:
    values = np.stack(extremes)
    return float(values[:, 0].min()), float(values[:, 1].max())
