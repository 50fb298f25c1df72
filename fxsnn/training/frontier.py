"""What layers read, layer by layer from the images on: of a network that is made final, or of a float one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.node import Node

from fxsnn.data import accepted
from fxsnn.graph import Graph
from fxsnn.layers import BoundedReLU, ClippedReLU, Integers, RateReLU
from fxsnn.processes import sharing_errors, summed
from fxsnn.rewriting import encoding
from fxsnn.training.student import Student

_FRAMES_AT_ONCE = 256
"""Images times steps of which spikes are made together; in between, each is a float."""
_SAY_NOTHING = ("largest_leak", "real_bias")
"""Numbers of a layer that spikes do not depend on: what its leaks were rounded from, and how large they are."""


class Frontier(ABC):
    """What layers read in a network, layer by layer from the images on, batch by batch.

    Each part of the network runs once on each batch: what activations gave is kept until the last activation that
    depends on it has been there, and what is behind goes on from there. So that memory is bounded, a batch is kept only
    while all that is kept takes no more than `most` bytes; one beyond that starts from its images again for every
    layer.

    Args:
        graph: the network.
        images: gives the same batches of images at every call; those of this process, where several work together.
        most: bytes.
    """

    activations: tuple[type[nn.Module], ...]
    """Behind what values are kept."""

    def __init__(self, graph: Graph, images: Callable[[], Iterator[Tensor]], most: int) -> None:
        self._graph, self._images, self._most = graph, images, most
        self._places = {node: place for place, node in enumerate(graph.body())}
        self._input = graph.input()
        self._kept: dict[int, Mapping[Node, Tensor]] = {}
        self._batches: int | None = None
        self._last_read: dict[Node, int] = {}
        """By activation, the place of the last activation that depends on it."""
        for node in filter(self._is_activation, self._places):
            reads = filter(self._is_activation, self._way([node], self._is_activation)[:-1])
            self._last_read.update(dict.fromkeys(reads, self._places[node]))

    @abstractmethod
    def _made(self, wanted: Collection[Node], kept: Mapping[Node, Tensor], images: Tensor | None) -> dict[Node, Tensor]:
        """What comes of kept values, or of images, at the activations that are wanted, as it is kept."""

    @abstractmethod
    def _read(self, activation: Node, kept: Tensor) -> Tensor:
        """What readers of an activation get."""

    def values(self, node: Node, *others: Node) -> Iterator[Mapping[Node, Tensor]]:
        """What a layer, and others that it depends on, give on each batch.

        Args:
            node: a layer with an activation; layers are asked for in the order of the body. Those before it must not
                change any more.
            others: nodes between the activations that the layer reads and the layer; or these activations.
        """
        wanted, way = self._wanted(node), self._way([node], self._is_activation)
        for number, images in self._numbered(wanted, way):
            context = nullcontext() if images is None else accepted(images, what="calibration images")
            with torch.no_grad(), context:
                there = self._there(wanted, number, images)
                values = {read: self._read(read, there[read]) for read in way if self._is_activation(read)}
                if images is not None:
                    values[self._input] = images
                found = _run(way, values, self._graph.__getitem__, {node, *others})
            yield found  # outside: gradients are their consumer's

    def drives(self, node: Node) -> Iterator[Tensor]:
        """What stands in front of a layer's activation on each batch; see `values`."""
        return (values[node] for values in self.values(node))

    def _wanted(self, node: Node) -> list[Node]:
        """The activations before a layer that it, or one behind it, depends on."""
        return [read for read, last in self._last_read.items() if self._places[read] < self._places[node] < last]

    def _is_activation(self, node: Node) -> bool:
        return self._graph.is_a(node, *self.activations)

    def _way(self, targets: Collection[Node], stops: Callable[[Node], bool]) -> list[Node]:
        """The targets and what they depend on, in order, back to the images and to nodes that stop."""
        found, waiting = set(targets), [read for node in targets for read in node.all_input_nodes]
        while waiting:
            node = waiting.pop()
            if node not in found:
                found.add(node)
                waiting += () if stops(node) else node.all_input_nodes
        return sorted(found, key=self._places.__getitem__)

    def _numbered(self, wanted: Collection[Node], way: Sequence[Node]) -> Iterator[tuple[int, Tensor | None]]:
        """Batches with their numbers; without images where nothing starts from them."""
        kept = next(iter(self._kept.values()), {})
        made = self._way([node for node in wanted if node not in kept], kept.__contains__)
        if self._input not in (*way, *made) and len(self._kept) == self._batches:
            yield from ((number, None) for number in range(self._batches))
            return
        count = 0
        for images in self._images():
            yield count, images
            count += 1
        self._batches = count

    def _there(self, wanted: Collection[Node], number: int, images: Tensor | None) -> Mapping[Node, Tensor]:
        """What is kept of activations, made where it is not."""
        kept = self._kept.pop(number, {})
        there = {node: kept[node] for node in wanted if node in kept}
        there |= self._made([node for node in wanted if node not in kept], kept, images)
        if self._size() + sum(one.nbytes for one in there.values()) <= self._most:
            self._kept[number] = there
        return there

    def _size(self) -> int:
        """Bytes that are kept."""
        return sum(one.nbytes for batch in self._kept.values() for one in batch.values())


@dataclass(frozen=True, eq=False)
class Fired:
    """What a layer fired.

    Attributes:
        rates: mean rate of each channel, [C], float64.
        packed: spikes by batch, of those that there was room for.
        numbers: of the layer and its weighted inputs, by their names and its own.
    """

    rates: Tensor
    packed: Mapping[int, Tensor]
    numbers: Mapping[str, Mapping[str, Any]]


class SpikeFrontier(Frontier):
    """A network that is made final layer by layer: what the next layer reads by then, rates of real spikes.

    Spikes are kept, a bit each.

    Args:
        student: the network.
        images: gives the same batches of images at every call.
        most: bytes.
    """

    activations = (RateReLU,)

    def __init__(self, student: Student, images: Callable[[], Iterator[Tensor]], most: int) -> None:
        super().__init__(student.graph, images, most)
        self._student = student
        self._encode = encoding(student.graph)[0]
        self._encode.run_with(student.dynamics)
        self._final: dict[Node, nn.Module] = {}

    def fired(self, node: Node) -> Fired:
        """What a layer fires as it is by now; it may yet change.

        Args:
            node: as for `values`.
        """
        wanted, activation = self._wanted(node), next(iter(node.users))
        spikes, count = torch.zeros_like(self._student.spike_value(node), dtype=torch.float64), 0
        packed: dict[int, Tensor] = {}
        with torch.no_grad(), sharing_errors():
            for number, images in self._numbered(wanted, self._way([node], self._is_activation)):
                parts = []
                for made in self._spikes([activation], self._there(wanted, number, images), images):
                    channels = made[activation].sum(0).transpose(0, 1).flatten(1)
                    spikes += channels.sum(1, dtype=torch.float64)
                    count += channels.shape[1]
                    parts.append(_packed(made[activation]))
                whole = torch.cat(parts, dim=1)
                if self._size() + sum(one.nbytes for one in packed.values()) + whole.nbytes <= self._most:
                    packed[number] = whole
        rates = summed(spikes) / (int(summed(torch.tensor(count))) * self._student.dynamics.timesteps)
        return Fired(rates, packed, self._forgotten(node))

    def _forgotten(self, node: Node) -> dict[str, dict[str, Any]]:
        """Numbers of a layer and its weighted inputs, by name, as they are now and need not stay."""
        found = {}
        for one in self._way([node], self._is_activation):
            if one is not self._input and not self._is_activation(one):
                layer: Any = self._spiking(one)
                found[one.name] = dict(layer.named_buffers())
                if isinstance(layer, Integers):
                    found[one.name] |= {name: getattr(layer, name) for name in layer.whole_numbers()}
                del self._final[one]
        return found

    def keep(self, node: Node, one: Fired, other: Fired, chosen: Tensor) -> None:
        """Let a layer, which is final now, not fire again: a channel's spikes depend on no other channel of it.

        Args:
            node: the layer.
            one: what it fired before.
            other: what it fired another time.
            chosen: [C], channels whose neurons are now those of `other`; else of `one`. Where they are not, the layer
                does fire again.
        """
        now, activation = self._forgotten(node), next(iter(node.users))
        leaks = torch.where(chosen, other.numbers[node.name]["leak"], one.numbers[node.name]["leak"])
        for before in (one.numbers, other.numbers):
            if not _alike(now, {**before, node.name: {**before[node.name], "leak": leaks}}):
                return
        for number in self._kept.keys() & one.packed.keys() & other.packed.keys():
            mask = chosen.view(-1, *[1] * (one.packed[number].dim() - 3))
            packed = torch.where(mask, other.packed[number], one.packed[number])
            if self._size() + packed.nbytes <= self._most:
                self._kept[number] = {**self._kept[number], activation: packed}

    def _rates_of(self, packed: Tensor) -> Tensor:
        steps = self._student.dynamics.timesteps
        parts = packed.split(self._images_at_once(), dim=1)
        return torch.cat([_unpacked(part, steps).sum(0, dtype=torch.int32) for part in parts]) / steps

    def _read(self, activation: Node, kept: Tensor) -> Tensor:
        """What the rates of packed spikes are to their readers."""
        rated: Any = self._graph[activation]
        rated.rates = self._rates_of(kept).to(rated.spike_value.dtype)
        value: Tensor = rated(torch.zeros_like(rated.rates))
        rated.rates = None
        return value

    def _made(self, wanted: Collection[Node], kept: Mapping[Node, Tensor], images: Tensor | None) -> dict[Node, Tensor]:
        """Packed spikes."""
        found: dict[Node, list[Tensor]] = {node: [] for node in wanted}
        for made in self._spikes(wanted, kept, images):
            for node, parts in found.items():
                parts.append(_packed(made[node]))
        return {node: torch.cat(parts, dim=1) for node, parts in found.items()}

    def _spikes(
        self, wanted: Collection[Node], kept: Mapping[Node, Tensor], images: Tensor | None
    ) -> Iterator[dict[Node, Tensor]]:
        """Spikes [T, n, ...] of a few images at a time."""
        steps, most = self._student.dynamics.timesteps, self._images_at_once()
        way = self._way(wanted, kept.__contains__)
        given = {node: kept[node].split(most, dim=1) for node in way if node in kept}
        if self._input in way:
            assert images is not None
            given[self._input] = images.split(most)
        for part in range(max(map(len, given.values()), default=0)):
            values = {
                node: self._encode(parts[part])
                if node is self._input
                else _unpacked(parts[part], steps).float().flatten(0, 1)
                for node, parts in given.items()
            }
            made = _run(way, values, self._spiking, wanted)
            yield {node: made[node].unflatten(0, (steps, -1)) for node in wanted}

    def _spiking(self, node: Node) -> nn.Module:
        if node not in self._final:
            self._final[node] = self._student.spiking_layer(node)
        return self._final[node]

    def _images_at_once(self) -> int:
        return max(1, _FRAMES_AT_ONCE // self._student.dynamics.timesteps)


class FloatFrontier(Frontier):
    """A network of floating point numbers that does not change: what its layers read."""

    activations = (nn.ReLU, BoundedReLU, ClippedReLU)  # the last ones are users' own

    def _read(self, activation: Node, kept: Tensor) -> Tensor:
        return kept

    def _made(self, wanted: Collection[Node], kept: Mapping[Node, Tensor], images: Tensor | None) -> dict[Node, Tensor]:
        way = self._way(wanted, kept.__contains__)
        values = {node: kept[node] for node in way if node in kept}
        if self._input in way:
            assert images is not None
            values[self._input] = images
        return _run(way, values, self._graph.__getitem__, wanted)


def _run(
    way: Sequence[Node], given: Mapping[Node, Tensor], called: Callable[[Node], nn.Module], wanted: Collection[Node]
) -> dict[Node, Tensor]:
    """The values of the nodes that are wanted; others go as soon as nothing reads them any more."""
    last = {read: node for node in way for read in node.all_input_nodes}
    values = dict(given)
    for node in way:
        if node in values:
            continue
        reads = node.all_input_nodes
        values[node] = called(node)(*(values[read] for read in reads))
        for read in reads:
            if last[read] is node and read not in wanted:
                del values[read]
    return values


def _alike(numbers: Mapping[str, Mapping[str, Any]], others: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether neurons with these numbers fire alike."""

    def flat(of: Mapping[str, Mapping[str, Any]]) -> dict[tuple[str, str], Any]:
        every = {(layer, name): value for layer, held in of.items() for name, value in held.items()}
        return {key: value for key, value in every.items() if key[1] not in _SAY_NOTHING}

    left, right = flat(numbers), flat(others)
    return left.keys() == right.keys() and all(
        torch.equal(value, right[key]) if isinstance(value, Tensor) else value == right[key]
        for key, value in left.items()
    )


def _packed(spikes: Tensor) -> Tensor:
    """Spikes [T, N, ...] as bits of bytes, [T / 8 rounded up, N, ...]; on whatever device they are."""
    bits = spikes.to(torch.uint8)
    places = torch.arange(8, dtype=torch.uint8, device=bits.device).view(-1, *[1] * (bits.dim() - 1))
    return torch.stack([(eight << places[: len(eight)]).sum(0, dtype=torch.uint8) for eight in bits.split(8)])


def _unpacked(packed: Tensor, steps: int) -> Tensor:
    """The spikes, uint8 [T, N, ...]."""
    return torch.stack([(packed[step // 8] >> step % 8) & 1 for step in range(steps)])
