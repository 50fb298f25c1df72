"""What a spiking network does on images: firing rates, membranes, silent and saturated neurons, synaptic operations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fxsnn.errors import DataError
from fxsnn.graph import Graph
from fxsnn.layers import Encode, Spiking


@dataclass(frozen=True)
class LayerActivity:
    """What a layer did.

    Attributes:
        size: of its output: (channels, height, width) or (features,).
        firing_rate: spikes per neuron and step, averaged over neurons and images.
        membrane: the smallest and the largest value any membrane had before a reset.
        silent: how many neurons never spiked on any image.
        saturated: share of neurons (averaged over images) that spiked at every step: what they stand for is cut off.
        synaptic_operations: additions per image: for each spike that the layer reads, one at each neuron that it feeds.
            For the first layer, which reads numbers, multiplications and additions at every step.
    """

    size: tuple[int, ...]
    firing_rate: float
    membrane: tuple[float, float]
    silent: int
    saturated: float
    synaptic_operations: float


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


def sources(graph: Graph) -> dict[str, str | None]:
    """By name of a spiking layer, the one that it reads; `None` for the first, which reads the images."""
    found: dict[str, str | None] = {}
    for node in graph.nodes(Spiking):
        before = node.all_input_nodes[0]
        while before.op == "call_module" and not graph.is_a(before, Spiking, Encode):
            before = before.all_input_nodes[0]
        found[graph.name(node)] = graph.name(before) if graph.is_a(before, Spiking) else None
    return found


class Meter:
    """Adds up what a network does, batch by batch.

    Args:
        graph: of the network.
        timesteps: T.

    Attributes:
        images: how many so far.
        operations: by layer, synaptic operations at each step, over all images, float64 [T].
    """

    def __init__(self, graph: Graph, timesteps: int) -> None:
        self.images = 0
        self._size: tuple[int, ...] | None = None
        self._timesteps = timesteps
        self._layers = {graph.name(node): graph[node] for node in graph.nodes(Spiking)}
        self._sources = sources(graph)
        self._form = graph.image_form
        self.operations = {name: torch.zeros(timesteps, dtype=torch.float64) for name in self._layers}
        self._fan_out: dict[str, Tensor] = {}
        self._spikes = dict.fromkeys(self._layers, 0.0)
        self._saturated = dict.fromkeys(self._layers, 0)
        self._fired: dict[str, Tensor] = {}
        self._ranges: dict[str, tuple[float, float]] = {}

    def add(self, images: Tensor, spikes: Mapping[str, Tensor], ranges: Mapping[str, tuple[float, float]]) -> None:
        """What a run on some images showed: spikes [T, N, ...] and ranges of membranes, by layer.

        Raises:
            DataError: the images are not of the size of those before.
        """
        size = tuple(images.shape[1:])
        if self._size not in (None, size):
            raise DataError(
                f"images have sizes {self._size} and {size}; a neuron is one place: give images of one size"
            )
        self._size = size
        self.images += len(images)
        for name, layer in self._layers.items():
            source = self._sources[name]
            if source is None:
                if name not in self._fan_out:
                    size = (images[0].numel(),) if isinstance(layer, nn.Linear) else self._form.size_of_layers(size)
                    self._fan_out[name] = fan_out(layer, size)
                self.operations[name] += float(self._fan_out[name].sum()) * len(images)
            else:
                read = spikes[source].double().sum(1).cpu()
                if name not in self._fan_out:
                    self._fan_out[name] = fan_out(layer, tuple(read.shape[1:]))
                self.operations[name] += (read * self._fan_out[name]).flatten(1).sum(1)
            counts = spikes[name].sum(0)
            self._spikes[name] += float(counts.double().sum())
            self._saturated[name] += int((counts == self._timesteps).sum())
            fired = (counts > 0).any(0).cpu()
            self._fired[name] = fired | self._fired[name] if name in self._fired else fired
            low, high = ranges[name]
            before = self._ranges.get(name, (low, high))
            self._ranges[name] = min(low, before[0]), max(high, before[1])

    def result(self) -> Activity:
        """All of it."""
        layers = {}
        for name, fired in self._fired.items():
            neurons = fired.numel() * self.images
            layers[name] = LayerActivity(
                tuple(fired.shape),
                self._spikes[name] / (neurons * self._timesteps),
                self._ranges[name],
                int((~fired).sum()),
                self._saturated[name] / neurons,
                float(self.operations[name].sum()) / self.images,
            )
        return Activity(self.images, layers)
