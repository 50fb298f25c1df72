"""What a spiking network does on images: firing rates, membranes, silent and saturated neurons, synaptic operations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.node import Node

from fxsnn.errors import DataError
from fxsnn.graph import Graph, copied
from fxsnn.layers import Encode, Integers, SpikeAdd, Spiking, Synapses
from fxsnn.processes import gathered


@dataclass(frozen=True)
class LayerActivity:
    """What a layer did; a weighted input of a sum has no neurons, and nothing of what neurons do.

    Attributes:
        size: of its output: (channels, height, width) or (features,).
        firing_rate: spikes per neuron and step, averaged over neurons and images.
        membrane: the smallest and the largest value any membrane had before a reset.
        silent: how many neurons never spiked on any image.
        saturated: share of neurons (averaged over images) that spiked at every step: what they stand for is cut off.
        synaptic_operations: additions per image: for each spike that the layer reads, one at each neuron that it feeds.
            A sum's are those of spikes that it adds as they are; its weighted inputs have their own. For a layer that
            reads the images, which are numbers, multiplications and additions at every step.
        reads_images: whether it is such a layer.
    """

    size: tuple[int, ...]
    firing_rate: float | None
    membrane: tuple[float, float] | None
    silent: int
    saturated: float | None
    synaptic_operations: float
    reads_images: bool = False


@dataclass(frozen=True)
class Activity:
    """What a network did.

    Attributes:
        images: on how many images.
        layers: by name.
    """

    images: int
    layers: Mapping[str, LayerActivity]


def fan_out(layer: Any, size: tuple[int, ...]) -> Tensor:
    """How many neurons of a layer each of its inputs feeds, float64, of shape `size`; at borders there are fewer.

    Args:
        layer: a spiking layer.
        size: of its input, (channels, height, width) or (features,).
    """
    if isinstance(layer, nn.Linear):
        return torch.full(size, float(layer.out_features), dtype=torch.float64)
    with torch.inference_mode(False), torch.enable_grad():
        inputs = torch.zeros(1, *size, dtype=torch.float64, requires_grad=True)
        if isinstance(layer, nn.Conv2d):
            ones = torch.ones(layer.codes.shape, dtype=torch.float64)  # type: ignore[arg-type]  # a module's attribute
            sums = layer._conv_forward(inputs, ones, None)
        else:
            sums = layer.weighted_sum(inputs)
        # The sum is linear with weights 1: its derivative by an input counts the outputs which that feeds.
        (found,) = torch.autograd.grad(sums.sum(), inputs)
    return found[0]


def sources(graph: Graph) -> dict[str, tuple[str | None, ...]]:
    """By name of a layer, those whose spikes it reads; `None` stands for the images.

    A sum reads what it adds as it is; the rest is read by its weighted inputs. Wiring is passed through.
    """
    found: dict[str, tuple[str | None, ...]] = {}
    for node in graph.nodes(Integers):
        starts = [one for one in _way(graph, node)[0] if not graph.is_a(one, Synapses)]
        found[graph.name(node)] = tuple(None if graph.is_a(one, Encode) else graph.name(one) for one in starts)
    return found


def _way(graph: Graph, node: Node) -> tuple[list[Node], list[Node]]:
    """The layers, or the encoder, that a layer reads, and what stands between, in order."""
    starts: dict[Node, None] = {}
    between: dict[Node, None] = {}

    def walk(one: Node) -> None:
        for read in one.all_input_nodes:
            if graph.is_a(read, Integers, Encode):
                starts[read] = None
            elif read not in between and read.op == "call_module":
                walk(read)
                between[read] = None

    walk(node)
    return list(starts), list(between)


def fan_outs(graph: Graph, node: Node, sizes: Mapping[str | None, tuple[int, ...]]) -> dict[str | None, Tensor]:
    """How many neurons each spike that a layer reads feeds, by its sources: float64, of their sizes.

    Args:
        graph: of the network.
        node: of the layer.
        sizes: of what its sources give, by name; `None`: of the images, as layers read them.
    """
    starts, between = _way(graph, node)
    values: dict[Node, Tensor] = {}
    with torch.inference_mode(False), torch.enable_grad():
        for one in starts:
            if not graph.is_a(one, Synapses):
                size = sizes[None if graph.is_a(one, Encode) else graph.name(one)]
                values[one] = torch.zeros(1, *size, dtype=torch.float64, requires_grad=True)
        leaves = dict(values)
        for one in between:
            wiring: Any = graph[one]
            values[one] = copied(wiring, lambda tensor: tensor.cpu())(*(values[read] for read in one.all_input_nodes))
        reads = [values[read] for read in node.all_input_nodes if read in values]
        if not reads:
            return {}
        counts = [torch.ones_like(read) for read in reads]
        if not graph.is_a(node, SpikeAdd):
            counts = [fan_out(graph[node], tuple(reads[0].shape[1:]))[None]]
        found = torch.autograd.grad(reads, list(leaves.values()), counts)
    names = (None if graph.is_a(one, Encode) else graph.name(one) for one in leaves)
    return {name: one[0] for name, one in zip(names, found, strict=True)}


def depth(graph: Graph) -> int:
    """Neurons in a row on the longest way from the images to the last layer."""
    found: dict[Node, int] = {}
    for node in graph.nodes():
        before = max((found[read] for read in node.all_input_nodes), default=0)
        found[node] = before + graph.is_a(node, Spiking)
    return max(found.values(), default=0)


class Meter:
    """Adds up what a network does, batch by batch.

    Args:
        graph: of the network.
        timesteps: T.

    Attributes:
        timesteps: T.
        images: how many so far.
        operations: by layer, synaptic operations at each step, over all images, float64 [T].
        read_images: names of the layers whose operations are multiplications: what they read are the images.
        depth: neurons in a row on the longest way through the network.
    """

    def __init__(self, graph: Graph, timesteps: int) -> None:
        self.images = 0
        self._size: tuple[int, ...] | None = None
        self.timesteps = timesteps
        self._graph = graph
        self._nodes = {graph.name(node): node for node in graph.nodes(Integers)}
        sources_of = sources(graph)
        self.read_images = frozenset(name for name, read in sources_of.items() if set(read) == {None})
        self.depth = depth(graph)
        self.operations = {name: torch.zeros(timesteps, dtype=torch.float64) for name in self._nodes}
        self._fan_outs: dict[str, dict[str | None, Tensor]] = {}
        self._sizes: dict[str, tuple[int, ...]] = {}
        self._spikes: dict[str, float] = {}
        self._saturated: dict[str, int] = {}
        self._fired: dict[str, Tensor] = {}
        self._ranges: dict[str, tuple[float, float]] = {}

    def add(self, images: Tensor, spikes: Mapping[str, Tensor], ranges: Mapping[str, tuple[float, float]]) -> None:
        """What a run on some images showed: spikes [T, N, ...] and ranges of membranes, by layer.

        Raises:
            DataError: the images are not of the size of those before.
        """
        size = self._graph.image_form.size_of(images)
        self._require_size(self._size, size)
        if self._size is None:
            self._size = size
            self._measure(size, {name: tuple(one.shape[2:]) for name, one in spikes.items()})
        self.images += len(images)
        read: dict[str, Tensor] = {}
        for name, fed in self._fan_outs.items():
            for source, counts in fed.items():
                if source is None:
                    self.operations[name] += float(counts.sum()) * len(images)
                    continue
                if source not in read:
                    read[source] = spikes[source].double().sum(1).cpu()
                self.operations[name] += (read[source] * counts).flatten(1).sum(1)
        for name, one in spikes.items():
            total = one.sum(0)
            self._spikes[name] = self._spikes.get(name, 0.0) + float(total.double().sum())
            self._saturated[name] = self._saturated.get(name, 0) + int((total == self.timesteps).sum())
            fired = (total > 0).any(0).cpu()
            self._fired[name] = fired | self._fired[name] if name in self._fired else fired
            low, high = ranges[name]
            before = self._ranges.get(name, (low, high))
            self._ranges[name] = min(low, before[0]), max(high, before[1])

    def join_others(self) -> None:
        """Add what meters of other processes have seen, see `fxsnn.across_processes`.

        Raises:
            DataError: their images are not of the size of those here.
        """
        parts = gathered(vars(self) | {"_graph": None, "_nodes": None, "_fan_outs": None})
        if len(parts) == 1:
            return
        seen = [part for part in parts if part["images"]]
        for other in seen:
            self._require_size(seen[0]["_size"], other["_size"])
        self.images = sum(part["images"] for part in seen)
        self._sizes = seen[0]["_sizes"]
        for name in self.operations:
            self.operations[name] = torch.stack([part["operations"][name] for part in seen]).sum(0)
        for name in seen[0]["_spikes"]:
            self._spikes[name] = sum(part["_spikes"][name] for part in seen)
            self._saturated[name] = sum(part["_saturated"][name] for part in seen)
            self._fired[name] = torch.stack([part["_fired"][name] for part in seen]).any(0)
            lows, highs = zip(*(part["_ranges"][name] for part in seen), strict=True)
            self._ranges[name] = min(lows), max(highs)

    @staticmethod
    def _require_size(known: tuple[int, ...] | None, size: tuple[int, ...]) -> None:
        if known not in (None, size):
            raise DataError(f"images have sizes {known} and {size}; a neuron is one place: give images of one size")

    def _measure(self, size: tuple[int, ...], given: Mapping[str, tuple[int, ...]]) -> None:
        """Sizes and fan-outs, for images of a size."""
        sizes: dict[str | None, tuple[int, ...]] = {None: self._graph.image_form.size_of_layers(size)}
        sizes.update(given)
        for name, node in self._nodes.items():
            self._fan_outs[name] = fan_outs(self._graph, node, sizes)
            behind = self._graph.sole_user(node)
            # A weighted input gives as many sums as the sum that reads it has neurons.
            self._sizes[name] = given[self._graph.name(node if name in given or behind is None else behind)]

    def result(self) -> Activity:
        """All of it."""
        layers = {}
        for name, size in self._sizes.items():
            fired, operations = self._fired.get(name), float(self.operations[name].sum()) / self.images
            reads_images = name in self.read_images
            if fired is None:
                layers[name] = LayerActivity(size, None, None, 0, None, operations, reads_images)
                continue
            neurons = fired.numel() * self.images
            layers[name] = LayerActivity(
                size,
                self._spikes[name] / (neurons * self.timesteps),
                self._ranges[name],
                int((~fired).sum()),
                self._saturated[name] / neurons,
                operations,
                reads_images,
            )
        return Activity(self.images, layers)
