"""A network that is made final layer by layer, from the images on: what the next layer reads by then."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.node import Node

from fxsnn.data import accepted
from fxsnn.layers import RateReLU
from fxsnn.rewriting import encoding
from fxsnn.training.student import Student

_FRAMES_AT_ONCE = 256
"""Images times steps of which spikes are made together; in between, each is a float."""


class Frontier:
    """The spikes that the layer behind the last final one reads, batch by batch.

    Each layer fires once on each batch: the spikes that the last final layer gave are kept, a bit each, and the next
    layer goes on from there. So that memory is bounded, a batch is kept only while the spikes of all kept ones take no
    more than `most` bytes; one beyond that starts from its images again for every layer.

    Args:
        student: the network.
        images: gives the same batches of images at every call.
        most: bytes.
    """

    def __init__(self, student: Student, images: Callable[[], Iterator[Tensor]], most: int) -> None:
        self._student, self._images, self._most = student, images, most
        self._body = student.graph.body()
        self._encode = encoding(student.graph)[0]
        self._final: dict[Node, nn.Module] = {}
        self._kept: dict[int, tuple[int, Tensor]] = {}
        self._batches: int | None = None

    def drives(self, node: Node) -> Iterator[Tensor]:
        """What stands in front of a layer's activation on each batch, for the rates of the spikes that it reads.

        Layers before it must not change any more once they were asked for.
        """
        place, graph = self._body.index(node), self._student.graph
        start = max((at for at in range(place) if graph.is_a(self._body[at], RateReLU)), default=-1)
        for number, images in self._numbered(from_images=start < 0):
            context = nullcontext() if images is None else accepted(images, what="calibration images")
            with torch.no_grad(), context:
                value = images if start < 0 else self._decoded(start, self._spikes(start, number, images))
                for between in self._body[max(start, 0) + 1 : place + 1]:
                    value = graph[between](value)
            assert value is not None
            yield value

    def _numbered(self, *, from_images: bool) -> Iterator[tuple[int, Tensor | None]]:
        """Batches with their numbers; without images where nothing starts from them."""
        if not from_images and len(self._kept) == self._batches:
            yield from ((number, None) for number in range(self._batches))
            return
        count = 0
        for images in self._images():
            yield count, images
            count += 1
        self._batches = count

    def _decoded(self, start: int, packed: Tensor) -> Tensor:
        """What the rates of the spikes are to their reader."""
        activation: Any = self._student.graph[self._body[start]]
        steps = self._student.dynamics.timesteps
        parts = packed.split(self._images_at_once(), dim=1)
        rates = torch.cat([_unpacked(part, steps).sum(0, dtype=torch.int32) for part in parts]) / steps
        activation.rates = rates.to(activation.spike_value.dtype)
        value: Tensor = activation(torch.zeros_like(activation.rates))
        activation.rates = None
        return value

    def _spikes(self, start: int, number: int, images: Tensor | None) -> Tensor:
        """The packed spikes at a place of the body."""
        at, packed = self._kept.pop(number, (0, None))
        if packed is None:
            assert images is not None
            parts = [self._fired(self._encode(part), at, start) for part in images.split(self._images_at_once())]
        elif at < start:
            split = packed.split(self._images_at_once(), dim=1)
            steps = self._student.dynamics.timesteps
            parts = [self._fired(_unpacked(part, steps).float().flatten(0, 1), at, start) for part in split]
        else:
            parts = [packed]
        packed = torch.cat(parts, dim=1)
        if sum(kept.numel() for _, kept in self._kept.values()) + packed.numel() <= self._most:
            self._kept[number] = start, packed
        return packed

    def _fired(self, value: Tensor, at: int, start: int) -> Tensor:
        """What comes of an input behind one place at another, packed."""
        for node in self._body[at + 1 : start + 1]:
            if node not in self._final:
                self._final[node] = self._student.spiking_layer(node)
            value = self._final[node](value)
        return _packed(value.unflatten(0, (self._student.dynamics.timesteps, -1)))

    def _images_at_once(self) -> int:
        return max(1, _FRAMES_AT_ONCE // self._student.dynamics.timesteps)


def _packed(spikes: Tensor) -> Tensor:
    """Spikes [T, N, ...] as bits of bytes, [T / 8 rounded up, N, ...]; on whatever device they are."""
    bits = spikes.to(torch.uint8)
    places = torch.arange(8, dtype=torch.uint8, device=bits.device).view(-1, *[1] * (bits.dim() - 1))
    return torch.stack([(eight << places[: len(eight)]).sum(0, dtype=torch.uint8) for eight in bits.split(8)])


def _unpacked(packed: Tensor, steps: int) -> Tensor:
    """The spikes, uint8 [T, N, ...]."""
    return torch.stack([(packed[step // 8] >> step % 8) & 1 for step in range(steps)])
