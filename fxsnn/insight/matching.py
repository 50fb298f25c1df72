"""The layers of a spiking network and those of the ANN that it was converted from, one by one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.node import Node

from fxsnn.errors import OptionError
from fxsnn.graph import Graph, Pooling, Weighted, capture_sharing
from fxsnn.layers import Add, Concat, Encode, Integers, SpikeAdd, SpikeConv2d, SpikePool2d, Spiking, Synapses, Wiring
from fxsnn.network import SpikingNetwork, require_spiking
from fxsnn.passes import CheckConvRelu, FoldBatchNorm, TakeFrames, front_end
from fxsnn.rewriting import channels_of, weigh_pooling


@dataclass(frozen=True)
class MatchedLayer:
    """A layer in both networks.

    Attributes:
        name: in the user's network.
        node: its node in the ANN.
        out: the node that has its value: its ReLU; the pooling, or the weighted input of a sum, itself.
        spiking: what it has become.
        unit: what a reader takes a spike of it for, float64 [1], or [C] where each channel counts by its own value: in
            sums, and behind the body. Not of weighted inputs of sums, which do not spike.
    """

    name: str
    node: Node
    out: Node
    spiking: Integers
    unit: Tensor

    @property
    def pools(self) -> bool:
        """It is a pooling."""
        return isinstance(self.spiking, SpikePool2d)

    @property
    def fires(self) -> bool:
        """It has neurons."""
        return isinstance(self.spiking, Spiking)


def float_network(model: nn.Module, snn: SpikingNetwork) -> Graph:
    """The user's network with batch norms folded, in double precision, where the spiking network is.

    Biases of weighted inputs of sums are in the sums, as those of the spiking network are.
    """
    require_spiking(snn)
    graph = capture_sharing(model, snn.image_size)
    # They were verified when the network was converted.
    options: Mapping[str, Any] = snn.provenance.get("options", {})
    frames = () if snn.graph.image_form.frames is None else (TakeFrames(),)
    for one in (*front_end(snn.target, options.get("max_pool")), CheckConvRelu(), FoldBatchNorm(), *frames):
        graph = one(graph).after
    weighed = {snn.graph.name(node) for node in snn.graph.nodes(SpikeConv2d)}
    for node in graph.body(nn.AvgPool2d):
        if graph.name(node) in weighed:
            weigh_pooling(graph, node)
    own = graph.detached(torch.float64)
    own.module.to(snn.device)
    for node in own.body(Add):
        _gather_biases(own, node)
    return own


def _gather_biases(graph: Graph, node: Node) -> None:
    add: Any = graph[node]
    shift = add.shift
    for read, factor in zip(node.all_input_nodes, add.factor, strict=True):
        layer: Any = graph[read] if graph.is_a(read, *Weighted) else None
        if layer is not None and layer.bias is not None:
            shift = shift + factor * layer.bias.detach()
            layer.bias = None
    graph.replace(node, Add(add.factor, shift).eval())


def matched_layers(ann: Graph, snn: SpikingNetwork) -> list[MatchedLayer]:
    """The layers that both networks have, in order.

    Raises:
        OptionError: they do not fit together.
    """
    spiking = {snn.graph.name(node): node for node in snn.graph.nodes(Integers)}
    nodes = ann.body(*Weighted, *Pooling, Add)
    if [ann.name(node) for node in nodes] != list(spiking):
        raise OptionError(
            f"snn was not converted from this model: its layers are {', '.join(spiking)}, those of the model "
            f"{', '.join(map(ann.name, nodes)) or 'none'}"
        )
    found: list[MatchedLayer] = []
    units: dict[str, Tensor] = {}
    for node in nodes:
        layer, module = snn.graph[spiking[ann.name(node)]], ann[node]
        assert isinstance(layer, Integers)
        out = node if isinstance(module, Pooling) or isinstance(layer, Synapses) else next(iter(node.users))
        ours, theirs = (_size(one) for one in (layer, module))
        if ours != theirs:
            raise OptionError(
                f"snn was not converted from this model: weights of {ann.name(node)} have shape {list(ours)}, "
                f"in the model {list(theirs)}"
            )
        units[ann.name(node)] = unit = _unit(snn.graph, spiking[ann.name(node)], units)
        found.append(MatchedLayer(ann.name(node), node, out, layer, unit))
    return found


def _size(layer: Any) -> tuple[int, ...]:
    """Of weights; of a sum, the number of inputs."""
    if isinstance(layer, Add | SpikeAdd):
        return (len(layer.factor if isinstance(layer, Add) else layer.weights),)
    weights = getattr(layer, "codes", None) if isinstance(layer, Integers) else getattr(layer, "weight", None)
    return () if weights is None else tuple(weights.shape)


def _unit(graph: Graph, node: Node, units: Mapping[str, Tensor]) -> Tensor:
    """What a spike of `node` is taken for by the layers with weights that read it; by sums and the tail, if none do.

    A pooling passes on what it reads, the units of which are known.
    """
    layer: Any = graph[node]
    if isinstance(layer, SpikePool2d):
        return unit_of(graph, node.all_input_nodes[0], units)
    if not isinstance(layer, Spiking):
        return torch.ones(1, dtype=torch.float64)
    waiting = list(node.users)
    while waiting:
        behind = waiting.pop(0)
        module: Any = graph[behind] if behind.op == "call_module" else None
        if isinstance(module, Integers) and module.bits:
            return layer.spike_value.new_tensor([module.input_unit])
        if isinstance(module, Concat):  # its readers have what their inputs are worth in their codes
            return layer.spike_value.mean().view(1)
        if isinstance(module, SpikePool2d | nn.Flatten | Wiring):
            waiting += behind.users
    return layer.spike_value


def unit_of(graph: Graph, node: Node, units: Mapping[str, Tensor]) -> Tensor:
    """What a spike that comes along an edge is taken for, or one unit of the images; of each channel, or [1]."""
    module = graph[node]
    if isinstance(module, Encode):
        return torch.full((1,), module.unit, dtype=torch.float64, device=graph.device)
    if isinstance(module, Spiking):
        return units[graph.name(node)]
    read = [unit_of(graph, one, units) for one in graph.inputs(node)]
    if isinstance(module, Wiring) and len(read) > 1:
        sizes = [_channels(graph, one) for one in graph.inputs(node)]
        return module.of_channels([unit.expand(size) for unit, size in zip(read, sizes, strict=True)])
    if isinstance(module, Wiring) and len(read[0]) > 1:
        return module.of_channels(read)
    return read[0]


def _channels(graph: Graph, node: Node) -> int:
    """How many channels a value of a spiking network has."""
    found = channels_of(graph, node)
    assert found is not None  # a concatenation reads maps or rows of neurons
    return found
