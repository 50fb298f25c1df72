"""From n-bit weights and thresholds to spiking layers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.node import Node

from fxsnn.chip import HardwareTarget
from fxsnn.graph import Activation, Graph, Norm, Pooling, Weighted, normalised_images
from fxsnn.layers import (
    Add,
    Affine,
    AnyPool2d,
    AverageFrames,
    ClippedReLU,
    Decode,
    Encode,
    FixedSize,
    Lift,
    QuantizedInput,
    RateReLU,
    SpikeAdd,
    SpikeAnyPool2d,
    SpikeAvgPool2d,
    SpikeConv2d,
    SpikeLinear,
    SpikePool2d,
    SynapseConv2d,
    SynapseLinear,
    Wiring,
    layer_like,
    spiking_form,
)
from fxsnn.numerics import Codebook, Dynamics, JointNeuron
from fxsnn.rewriting.neurons import (
    Neurons,
    bias_of,
    branches_of,
    decoded_values,
    encoding,
    has_neurons_elsewhere,
    step_ratio,
)


def substitute(graph: Graph, target: HardwareTarget, dynamics: Dynamics) -> None:
    """Turn the body of `graph` into spiking layers, in place; the tail is left untouched.

    Args:
        graph: with n-bit weights and calibrated thresholds.
        target: gives the widths of the registers.
        dynamics: T, reset and start of the membranes.

    Raises:
        ModelError: weights or thresholds are missing.
        TargetError: values that fit no register, all of them.
    """
    layers, value = decoded_values(graph, target)
    end = _without_activation(graph, graph.end())
    dtype = graph.dtype  # of all layers with weights: nothing between them could cast
    encode, _ = encoding(graph)
    encode.run_with(dynamics)
    _average_in_tail(graph)
    body = graph.body()  # while it has its activations
    for node in graph.body(QuantizedInput, Affine, FixedSize, Lift):  # which encoding does, too
        graph.bypass(node)
    for layer in layers:
        for node, module in spiking_layers(graph, layer, dynamics).items():
            graph.replace(node, module)
    for node in graph.body(ClippedReLU, RateReLU):
        graph.bypass(node)  # its threshold is in the neurons now
    graph.insert_after(graph.input(), "encode", encode, body)
    graph.insert_after(end, "decode", Decode(value, dtype, dynamics))


def _average_in_tail(graph: Graph) -> None:
    """Let layers read frames. A tail that reads the images goes on reading their mean: a call that files have."""
    averages = graph.nodes(AverageFrames)
    graph.bypass_for(graph.body(), averages)
    for node in averages:
        node.op, node.target, node.args = "call_method", "mean", (node.all_input_nodes[0], 1)


def _without_activation(graph: Graph, node: Node | None) -> Node:
    """The layer whose neurons take the place of an activation, or the pooling whose levels it rounds."""
    assert node is not None  # else there was nothing to convert
    while graph.is_a(node, *Activation, *Norm):
        node = node.all_input_nodes[0]
    return node


def spiking_layers(graph: Graph, layer: Neurons, dynamics: Dynamics) -> dict[Node, nn.Module]:
    """What takes the places of a layer of the body, and of the layers with weights whose sums it adds up."""
    module: Any = graph[layer.node]
    source = layer.source
    if layer.neuron is None or layer.activation is None:
        return {layer.node: _pooling(module, source.value, dynamics)}
    activation: Any = graph[layer.activation]
    if isinstance(layer.neuron, JointNeuron):
        return _joint(graph, layer, layer.neuron, activation.threshold, dynamics)
    spiking = spiking_form(
        module,
        layer.neuron,
        dynamics,
        threshold=activation.threshold,
        input_unit=source.unit,
        input_magnitude=source.magnitude,
        constant_input=source.constant,
    )
    return {layer.node: spiking}


def _pooling(pool: nn.AvgPool2d | AnyPool2d, spike_value: Tensor, dynamics: Dynamics) -> SpikePool2d:
    if isinstance(pool, AnyPool2d):
        return SpikeAnyPool2d.compiled(pool, spike_value, dynamics)
    return SpikeAvgPool2d.compiled(pool, spike_value, dynamics)


def _joint(
    graph: Graph, layer: Neurons, neuron: JointNeuron, threshold: float, dynamics: Dynamics
) -> dict[Node, nn.Module]:
    """The neurons of a sum, and the synapses of its inputs."""
    found: dict[Node, nn.Module] = {}
    branches = branches_of(graph, layer.node, layer.inputs)
    weights, largest = neuron.gains.clone(), 0
    for number, (one, (_, low)) in enumerate(zip(layer.inputs, branches, strict=True)):
        if one.synapses is None:
            largest += int(weights[number].abs().max()) * (one.source.magnitude or 0)
            continue
        synapses: SynapseConv2d | SynapseLinear = layer_like(low, SynapseConv2d, SynapseLinear)
        ratio = step_ratio(neuron, number, branches[number][0])
        synapses.connect(
            low.codes(ratio),
            low.codebook,
            low.step.detach().double() * ratio,
            neuron.gains[number].clone(),
            dynamics,
            input_unit=one.source.unit,
            input_magnitude=one.source.magnitude,
            constant_input=one.source.constant,
        )
        weights[number] = 1
        largest += synapses.largest_drive
        found[one.synapses] = synapses
    add = SpikeAdd()
    add.join(
        neuron,
        weights,
        dynamics,
        real_threshold=neuron.spike_value.new_tensor([threshold]),
        real_bias=bias_of(graph, layer.node, layer.inputs).clone(),
        real_weights=torch.stack([branch.weight for branch, _ in branches]),
        constant=tuple(one.source.constant for one in layer.inputs),
        largest_sum=largest,
        analog=any(one.source.magnitude is None for one in layer.inputs),
    )
    return {**found, layer.node: add.train(graph[layer.node].training)}


def outline(graph: Graph) -> Graph:
    """What will be made of a network: spiking layers in their places, with sizes and without numbers.

    Args:
        graph: canonical and convertible; it stays as it is.
    """
    other = graph.copy()
    encode, body = Encode(1.0, 8, graph.image_form, normalised_images(graph)[1]), other.body()
    end = _without_activation(other, other.end()) if body else None
    values: dict[Node, Tensor] = {}
    for node in body:
        if other.is_a(node, *Norm, *Activation, Affine, FixedSize, Lift):
            other.bypass(node)
    layers = [node for node in body if other.is_a(node, *Weighted, *Pooling, Add)]
    for node in body:
        values[node] = _value_behind(other, node, values)
    for node in layers:
        other.replace(node, _without_numbers(other, node, values[node]))
    other.insert_after(other.input(), "encode", encode, body)
    if end is not None:
        other.insert_after(end, "decode", Decode(values[end], graph.dtype, Dynamics()))
    other.tidy()
    return other


def _value_behind(graph: Graph, node: Node, values: dict[Node, Tensor]) -> Tensor:
    """Some value of each channel that a node gives."""
    if graph.is_a(node, *Weighted):
        layer: Any = graph[node]
        return torch.ones(layer.weight.shape[0], dtype=torch.float64)
    read = [values[one] for one in graph.inputs(node) if one in values]
    if graph.is_a(node, Wiring):
        wiring: Any = graph[node]
        found: Tensor = wiring.of_channels(read)
        return found
    return max(read, key=len, default=torch.ones(graph.input_channels or 1, dtype=torch.float64))


def _without_numbers(graph: Graph, node: Node, value: Tensor) -> nn.Module:
    """A spiking layer of the size of one without spikes; what is written of it tells its size, and is not there."""
    layer: Any = graph[node]
    if isinstance(layer, Pooling):
        return _pooling(layer, value, Dynamics())
    spiking: Any
    if isinstance(layer, Add):
        spiking = SpikeAdd()
        spiking.constant = (False,) * len(layer.factor)
        for name in ("weights", "real_weights"):
            spiking.register_buffer(name, value.expand(len(layer.factor), -1))
    elif has_neurons_elsewhere(graph, node):
        spiking = layer_like(layer, SynapseConv2d, SynapseLinear)
        spiking.register_buffer("gain", value)
    else:
        spiking = layer_like(layer, SpikeConv2d, SpikeLinear)
    if not isinstance(spiking, SpikeAdd):
        spiking.codebook = Codebook.symmetric(1)
        spiking.register_buffer("codes", torch.empty(0, dtype=torch.int8))
    for name in ("threshold", "leak", "step", "spike_value", "real_threshold", "real_bias"):
        spiking.register_buffer(name, value)
    trained: nn.Module = spiking.eval()
    return trained
