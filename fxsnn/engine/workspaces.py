"""The memory in which a plan runs, and how its operations run there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fxsnn.engine.circuit import Circuit
from fxsnn.engine.lookups import Array, Weights, part_of_images
from fxsnn.engine.operations import Piece
from fxsnn.engine.planning import ALIGNED, Plan
from fxsnn.numerics import Dynamics


class Workspace(ABC):
    """The memory in which a plan runs.

    Args:
        plan: what runs.

    Attributes:
        plan: the same.
        memory: for the spikes of its steps, of all operations.
        origins: where in it those of each operation begin.
        shared: whether others lie in the same place at another time.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        places = plan.places()
        self.memory = aligned_bytes(places.size)
        self.origins, self.shared = places.origins, places.shared

    @abstractmethod
    def drive(self, given: OfImages) -> Mapping[int, Array]:
        """Take images: of each operation that reads them and runs by itself, by its number, what they add, [T, images
        of the plan, channels, outputs]; [1, ...] without frames.

        Args:
            given: what comes of images: as many as the plan has, or fewer; the last one takes the places that are left.
        """

    @property
    def counts_alone(self) -> bool:
        """Whether it has `count`."""
        return False

    def count(self, given: OfImages, dynamics: Dynamics, counts: Array) -> None:
        """Run all operations and all steps on any number of images at once.

        Args:
            given: what comes of images.
            dynamics: T, reset and start.
            counts: int32 [N, channels, outputs], what is decoded is added up there.
        """
        raise NotImplementedError

    @abstractmethod
    def run(self, piece: Piece, numbers: range, extremes: Array | None) -> None:
        """Run some steps of some operations.

        Args:
            piece: steps, and the memory with what is read.
            numbers: of the operations.
            extremes: of a single one, see `fxsnn.engine.kernels`.
        """

    @abstractmethod
    def kind(self, number: int) -> np.dtype[Any]:
        """Type of the membranes of an operation."""

    @abstractmethod
    def start(self, images: Array, dynamics: Dynamics) -> None:
        """Let the membranes of some images start again, which are kept.

        Args:
            images: their numbers.
            dynamics: start.
        """


class PlaneWorkspace(Workspace):
    """The memory of operations on planes, each of which runs by itself.

    Args:
        plan: what runs.
        kept: membranes are needed behind its steps.
    """

    def __init__(self, plan: Plan, *, kept: bool) -> None:
        super().__init__(plan)
        self._operations: list[Any] = list(plan.operations)
        self._membranes = [operation.membranes(kept=kept) for operation in self._operations]

    def drive(self, given: OfImages) -> Mapping[int, Array]:
        """See `Workspace`."""
        found, together = {}, self.plan.images
        for call in given.readers():
            array = given.sums(call).contiguous().numpy()
            if given.images < together:
                array = array.take(np.minimum(np.arange(together), given.images - 1), axis=1)
            found[self.plan.numbers[call]] = array
        return found

    def run(self, piece: Piece, numbers: range, extremes: Array | None) -> None:
        """See `Workspace`."""
        for number in numbers:
            if self.shared[number]:
                self._operations[number].clear(piece)
            self._operations[number].run(piece, self._membranes[number], extremes)

    def kind(self, number: int) -> np.dtype[Any]:
        """See `Workspace`."""
        return self._membranes[number].dtype

    def start(self, images: Array, dynamics: Dynamics) -> None:
        """See `Workspace`."""
        for operation, membranes in zip(self._operations, self._membranes, strict=True):
            operation.start(membranes, images, dynamics)


def aligned_bytes(size: int) -> Array:
    """Bytes that are 0, the first of which begins a line of the cache."""
    room = np.zeros(size + ALIGNED, np.uint8)
    begin = -room.ctypes.data % ALIGNED
    return room[begin : begin + size]


class OfImages:
    """What comes of some images alone.

    Args:
        circuit: the circuit.
        weights: of its layers with neurons.
        images: [N, ...].

    Attributes:
        images: N.
    """

    def __init__(self, circuit: Circuit, weights: Mapping[int, Weights], images: Tensor) -> None:
        self._circuit, self._weights, self.images = circuit, weights, len(images)
        with torch.no_grad():
            self._values = circuit.of_images(images)
        self._bytes: dict[int, Array] = {}

    def readers(self) -> list[int]:
        """The calls with neurons that read it."""
        return [call for call, one in self._weights.items() if one.read_images]

    def sums(self, call: int) -> Tensor:
        """What images add to a call, [T, N, channels, outputs]; T is 1 without frames."""
        values = [self._values[one] for one in self._circuit.calls[call].inputs if one in self._values]
        with torch.no_grad():
            part = part_of_images(self._weights[call], values)
        assert part is not None
        return self._in_time(part.flatten(2) if part.dim() > 2 else part.unsqueeze(2))

    def bytes_of(self, call: int) -> Array:
        """What the single input of a call is, whole numbers of 8 bits, int8 [T, N, channels, places]."""
        (one,) = self._circuit.calls[call].inputs
        if one not in self._bytes:
            self._bytes[one] = self._in_time(self._values[one].to(torch.int8).flatten(2)).contiguous().numpy()
        return self._bytes[one]

    def _in_time(self, value: Tensor) -> Tensor:
        """[T * N, ...] as [T, N, ...]."""
        return value.unflatten(0, (-1, self.images))
