"""The CPU engine: table lookups instead of multiplications, compiled by numba, a few images at a time."""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from threadpoolctl import ThreadpoolController
from torch import Tensor

from fxsnn.engine import avx2, kernels
from fxsnn.engine.chain import Chain, Range, Recording, relying_on
from fxsnn.engine.operations import Array, Operation
from fxsnn.engine.planning import Plan, Shape, Weights, plan_of, sections_of, weights_of, window_of
from fxsnn.engine.tables import groups_of
from fxsnn.layers import SpikeConv2d, Spiking
from fxsnn.numerics import Dynamics

_STEPS_AT_ONCE = 16
"""Steps that a layer runs before the next one does; membranes are kept from one piece of time to the next."""
_PLANE_BYTES = 1 << 21
"""What passes between two layers should stay in the cache; more images leave fewer places of a run unused."""
_MOST_IMAGES = 64

_Key = tuple[Shape, int, int]
"""What the memory of a run depends on: shape of the drive, images taken together, timesteps."""


def obstacle() -> str:
    """Why this machine cannot run the engine; "" if it can."""
    with relying_on("numba"):
        return avx2.missing()


@dataclass(frozen=True, eq=False)
class Workspace:
    """The memory in which a plan runs.

    Attributes:
        plan: what runs.
        planes: of each operation, spikes of some steps.
        membranes: of each operation.
    """

    plan: Plan
    planes: list[Array]
    membranes: list[Any]


def workspace_for(plan: Plan, timesteps: int) -> Workspace:
    """Memory for a plan."""
    steps = min(timesteps, _STEPS_AT_ONCE)
    planes = [
        np.zeros((steps, groups_of(operation.channels), operation.grid.length), np.uint8)
        for operation in plan.operations
    ]
    membranes = [operation.membranes(kept=timesteps > steps) for operation in plan.operations]
    return Workspace(plan, planes, membranes)


@dataclass(frozen=True, eq=False)
class Results:
    """What a run is asked for.

    Attributes:
        counts: spike counts of the last layer, int32 [steps, N, channels, outputs]; one step stands for the whole run.
        totals: per layer, spike counts of the whole run, int32 [N, channels, outputs]; empty unless they are wanted.
        spikes: per layer, uint8 [T, N, channels, outputs]; empty unless they are wanted.
        ranges: per layer, what `extremes` of the kernels came to.
    """

    counts: Array
    totals: dict[str, Array]
    spikes: dict[str, Array]
    ranges: dict[str, list[Array]]

    def take(self, operation: Operation, planes: Array, places: Array, rows: slice, start: int) -> None:
        """Keep the spikes of the images `rows` from step `start` on."""
        if operation.name in self.totals:
            kernels.add_counts(planes, places, self.totals[operation.name][rows])
        if operation.name in self.spikes:
            kernels.unpack(planes, places, self.spikes[operation.name][start : start + len(planes), rows])

    def count(self, planes: Array, places: Array, rows: slice, start: int) -> None:
        """Add up the spikes of the last layer."""
        if len(self.counts) == 1:
            kernels.add_counts(planes, places, self.counts[0, rows])
            return
        for step in range(start, start + len(planes)):
            if step > 0:
                self.counts[step, rows] = self.counts[step - 1, rows]
            kernels.add_counts(planes[step - start : step - start + 1], places, self.counts[step, rows])


def results_for(
    plan: Plan, images: int, timesteps: int, *, every_step: bool = False, recording: Recording | None = None
) -> Results:
    """Empty results for a number of images."""
    shapes = {
        operation.name: (images, operation.channels, operation.grid.size[0] * operation.grid.size[1])
        for operation in plan.operations
        if operation.name
    }
    counts = np.zeros((timesteps if every_step else 1, *shapes[plan.operations[-1].name]), np.int32)
    totals = {name: np.zeros(shape, np.int32) for name, shape in shapes.items() if recording is not None}
    kept = shapes if recording is not None and recording.everything else {}
    spikes = {name: np.zeros((timesteps, *shape), np.uint8) for name, shape in kept.items()}
    return Results(counts, totals, spikes, {name: [] for name in kept})


def _extremes(results: Results, operation: Operation, membranes: Any) -> Array | None:
    """Room for the smallest and the largest membrane, where they are wanted."""
    if operation.name not in results.ranges:
        return None
    if membranes.dtype.kind == "f":
        return np.array([np.inf, -np.inf])
    limits = np.iinfo(np.int64)
    return np.array([limits.max, limits.min])


def run_plan(space: Workspace, sums: Array, rows: slice, dynamics: Dynamics, results: Results) -> None:
    """Run all steps on some images.

    Args:
        space: memory for as many images.
        sums: weighted sums of the first layer, [images, channels, outputs].
        rows: which of the results are theirs.
        dynamics: T, reset and start.
        results: written.
    """
    operations = space.plan.operations
    most = len(space.planes[0])
    for start in range(0, dynamics.timesteps, most):
        steps = min(most, dynamics.timesteps - start)
        given = sums
        for operation, membranes, planes in zip(operations, space.membranes, space.planes, strict=True):
            extremes = _extremes(results, operation, membranes)
            operation.run(given, membranes, planes[:steps], dynamics, fresh=start == 0, extremes=extremes)
            given = planes[:steps]
            results.take(operation, given, operation.places, rows, start)
            if extremes is not None:
                results.ranges[operation.name].append(extremes)
        results.count(given, operations[-1].places, rows, start)


class NumbaEngine:
    """Runs a chain on the CPU.

    Each of PyTorch's threads takes the whole network through a few images at a time, so that what passes between layers
    stays in its cache. The memory of a run is kept for the next one.

    Args:
        chain: the network.

    Raises:
        Unsupported: a layer does not fit the engine's integers.
    """

    name = "numba"
    images_at_once = 64

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self._weights = [weights_of(name, layer) for name, layer in chain.layers]
        self._idle: deque[tuple[_Key, Workspace]] = deque()
        self._widest: dict[Shape, int] = {}
        self._openmp = ThreadpoolController().select(user_api="openmp")

    def counts(self, images: Tensor, *, every_step: bool = False, recording: Recording | None = None) -> Tensor:
        """See `Engine`."""
        dynamics, first = self._chain.decode.dynamics, self._weights[0].layer
        threads = min(torch.get_num_threads(), len(images))
        shape = drive_shape(first, self._chain.encode.form.size_of_layers(tuple(images.shape[1:])))
        if shape not in self._widest:
            self._widest[shape] = widest_plane(self._weights, shape)
        together = images_together(self._widest[shape], len(images), threads)
        key = (shape, together, dynamics.timesteps)
        space = self._space(key)
        self._idle.append((key, space))
        operations = space.plan.operations
        results = results_for(space.plan, len(images), dynamics.timesteps, every_step=every_step, recording=recording)

        def run(start: int) -> None:
            rows = slice(start, min(start + together, len(images)))
            sums = self._first_sums(images[rows])
            if len(sums) < together:  # the last image runs several times
                sums = sums[np.minimum(np.arange(together), len(sums) - 1)]
            space = self._space(key)
            with relying_on("numba"):
                run_plan(space, sums, rows, dynamics, results)
            self._idle.append((key, space))

        starts = range(0, len(images), together)
        if min(threads, len(starts)) == 1:
            with self._openmp.limit(limits=1):
                for start in starts:
                    run(start)
        else:
            with ThreadPoolExecutor(threads, initializer=self._leave_openmp) as pool:
                list(pool.map(run, starts))
        if recording is not None:
            for operation in operations:
                name = operation.name
                if name in results.totals:
                    recording.counts[name] = _shaped(torch.from_numpy(results.totals[name])[None], operation)[0]
                if name in results.spikes:
                    recording.spikes[name] = _shaped(torch.from_numpy(results.spikes[name]), operation)
                    recording.ranges[name] = _range(results.ranges[name])
        counts = _shaped(torch.from_numpy(results.counts), operations[-1])
        return counts if every_step else counts[0]

    def _first_sums(self, images: Tensor) -> Array:
        """Weighted sums of the first layer, the same at every step, [images, channels, outputs]."""
        layer = self._weights[0].layer
        with torch.no_grad():
            sums = layer.sums(self._chain.prepared(images)).contiguous()
        if layer.input_magnitude is not None:
            sums = sums.round()  # as in `Spiking.drive`
        return sums.flatten(2).numpy() if sums.dim() == 4 else sums.unsqueeze(2).numpy()

    def _leave_openmp(self) -> None:
        """Let PyTorch's operators run in the thread that calls them.

        The threads here are enough for all cores, and those of OpenMP go on spinning for a while behind every operator.
        """
        torch.get_num_threads()  # PyTorch sets OpenMP's number of threads when a thread first asks for it
        self._openmp.limit(limits=1)

    def _space(self, key: _Key) -> Workspace:
        """Memory for one thread: that of an earlier run, if it was of the same kind."""
        try:
            while True:
                kept, space = self._idle.pop()
                if kept == key:
                    return space
        except IndexError:
            shape, together, timesteps = key
            return workspace_for(plan_of(self._weights, shape, together), timesteps)


def drive_shape(layer: Spiking, size: tuple[int, ...]) -> Shape:
    """Channels, height and width of the first layer's drive, for the size of what it reads."""
    if isinstance(layer, SpikeConv2d):
        return (len(layer.threshold), *window_of(layer).output((size[1], size[2])))
    return (len(layer.threshold), 1, 1)


def widest_plane(weights: list[Weights], shape: Shape) -> int:
    """Bytes that the spikes of one image and one step take behind the layer where they take most."""
    return max(
        groups_of(len(now.layer.threshold)) * written.grid(1).image_places
        for now, (written, _) in zip(weights, sections_of(weights, shape), strict=True)
    )


def images_together(widest: int, images: int, threads: int) -> int:
    """How many images a thread should take at a time."""
    return max(1, min(_PLANE_BYTES // (widest * _STEPS_AT_ONCE), _MOST_IMAGES, -(-images // threads)))


def _shaped(values: Tensor, operation: Operation) -> Tensor:
    """[steps, N, C, outputs] as [steps, N, C, H, W], or as [steps, N, C] behind a fully connected layer."""
    return values.squeeze(-1) if operation.flat else values.unflatten(-1, operation.grid.size)


def _range(extremes: list[Array]) -> Range:
    values = np.stack(extremes)
    return float(values[:, 0].min()), float(values[:, 1].max())
