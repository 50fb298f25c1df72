"""From n-bit weights and thresholds to integers: what travels along the edges, and the spiking layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.node import Node

from fxsnn.chip import HardwareTarget
from fxsnn.errors import Finding, ModelError, TargetError
from fxsnn.graph import Activation, Graph, Norm, Weighted, normalised_images
from fxsnn.layers import (
    Affine,
    ClippedReLU,
    Decode,
    Encode,
    FixedSize,
    Lift,
    LowBit,
    LowBitConv2d,
    LowBitLinear,
    QuantizedInput,
    RateReLU,
    SpikeAvgPool2d,
    SpikeConv2d,
    SpikeLinear,
    layer_like,
    spiking_form,
)
from fxsnn.numerics import Dynamics, IntegerNeuron, RegisterError, integer_neuron

NOTHING_TO_CONVERT = Finding(
    "network",
    "no convolution or hidden fully connected layer with a ReLU was found",
    "There is nothing to convert: the final fully connected layer is never transformed",
)


@dataclass(frozen=True)
class Signal:
    """What travels along an edge.

    Attributes:
        value: what one unit of it is worth in activation units, float64 [C].
        magnitude: the largest magnitude: 1 for spikes, `None` for the analog input.
        constant: the same at every step, without a time axis.
    """

    value: Tensor
    magnitude: int | None = 1
    constant: bool = False

    @property
    def unit(self) -> float:
        """One value for all channels.

        With a weight step per channel, each channel's threshold is rounded by itself and its spike value differs from
        the others' by at most one part in twice the threshold. A reader sums over all of them with integer weights,
        so it takes their mean.
        """
        return float(self.value.mean())


@dataclass(frozen=True)
class Neurons:
    """A layer of the body that is to spike.

    Attributes:
        node: the convolution, fully connected layer or pooling.
        source: what it reads.
        neuron: its integers; `None` for a pooling.
        activation: the node of its ReLU; `None` for a pooling.
    """

    node: Node
    source: Signal
    neuron: IntegerNeuron | None
    activation: Node | None

    @property
    def signal(self) -> Signal:
        """What it gives."""
        return Signal(self.source.value if self.neuron is None else self.neuron.spike_value)


def neurons_of(
    graph: Graph, target: HardwareTarget, known: Mapping[Node, Neurons] | None = None, until: Node | None = None
) -> list[Neurons]:
    """All layers that are to spike, in order, with thresholds and leaks rounded for the registers of `target`.

    Args:
        graph: with n-bit weights and calibrated thresholds.
        target: gives the widths of the registers.
        known: layers that are not to be rounded again.
        until: the last layer that is wanted.

    Raises:
        ModelError: weights or thresholds are missing.
        TargetError: values that fit no register, all of them.
    """
    _require_calibrated(graph)
    _, encoded = encoding(graph)
    signals = {graph.input(): encoded}
    findings: list[Finding] = []
    found = []
    for node in graph.body():
        if node.op != "call_module":
            continue
        read = node.all_input_nodes[0]
        if read not in signals:
            problem = f"it reads {graph.name(read)}, which no neurons can compute"
            raise ModelError([graph.finding(node, problem, "Run Canonicalize and CheckConvRelu first")])
        source = signals[read]
        if known is not None and node in known:
            found.append(known[node])
            signals[node] = found[-1].signal
        elif graph.is_a(node, LowBit):
            activation = graph.sole_user(node)
            assert activation is not None
            neuron = _neuron(graph, node, activation, source, target, findings)
            found.append(Neurons(node, source, neuron, activation))
            signals[node] = found[-1].signal
        else:
            if graph.is_a(node, nn.AvgPool2d):
                found.append(Neurons(node, source, None, None))
            signals[node] = source
        if node is until:
            break
    if findings:
        raise TargetError(findings)
    return found


def encoding(graph: Graph) -> tuple[Encode, Signal]:
    """The encoder of a graph whose thresholds are calibrated, and what it gives."""
    quantized: Any = next((graph[node] for node in graph.body(QuantizedInput)), None)
    unit, bits = (1.0, None) if quantized is None else (quantized.unit, quantized.bits)
    affine = normalised_images(graph)[1] if quantized is None else quantized.affine
    encode = Encode(unit, bits, graph.image_form, affine)
    value = torch.full((1,), unit, dtype=torch.float64, device=graph.device)
    return encode, Signal(value, encode.magnitude, constant=True)


def _neuron(
    graph: Graph, node: Node, activation: Node, source: Signal, target: HardwareTarget, findings: list[Finding]
) -> IntegerNeuron | None:
    layer: Any = graph[node]
    clipped: Any = graph[activation]
    step = layer.step.detach().double().expand(layer.weight.shape[0])
    bias = layer.bias.detach() if layer.bias is not None else torch.zeros_like(step)
    try:
        return integer_neuron(
            step=step,
            bias=bias,
            threshold=clipped.threshold,
            unit=source.unit,
            bits=layer.bits,
            registers=target.registers,
        )
    except RegisterError as error:
        findings.append(graph.finding(node, f"{error.problem} ({target.name})", error.remedy))
        # What stands behind is held against its registers too, with the threshold as it is.
        value = step.new_full((len(step),), clipped.threshold)
        none = torch.zeros(len(step), dtype=torch.int32, device=step.device)
        return IntegerNeuron(1, none + 1, none, value)


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
    layers = neurons_of(graph, target)
    dtype = graph.dtype  # of all layers with weights: nothing between them could cast
    encode, _ = encoding(graph)
    body = graph.body()  # while it has its activations
    for node in graph.body(QuantizedInput, Affine, FixedSize, Lift):  # which encoding does, too
        graph.bypass(node)
    for layer in layers:
        graph.replace(layer.node, spiking_layer(graph, layer, dynamics))
    for node in graph.body(ClippedReLU, RateReLU):
        graph.bypass(node)  # its threshold is in the neurons now
    graph.insert_after(graph.input(), "encode", encode, body)
    graph.insert_after(layers[-1].node, "decode", Decode(layers[-1].signal.value, dtype, dynamics))


def spiking_layer(graph: Graph, layer: Neurons, dynamics: Dynamics) -> nn.Module:
    """The layer with its integers."""
    module: Any = graph[layer.node]
    source = layer.source
    if layer.neuron is None or layer.activation is None:
        return SpikeAvgPool2d.compiled(module, source.value, dynamics)
    activation: Any = graph[layer.activation]
    return spiking_form(
        module,
        layer.neuron,
        dynamics,
        threshold=activation.threshold,
        input_unit=source.unit,
        input_magnitude=source.magnitude,
        constant_input=source.constant,
    )


def outline(graph: Graph) -> Graph:
    """What will be made of a network: spiking layers in their places, with sizes and without numbers.

    Args:
        graph: canonical and convertible; it stays as it is.
    """
    other = graph.copy()
    encode, decode, body = Encode(1.0, 8, graph.image_form, normalised_images(graph)[1]), list[Node](), other.body()
    value = torch.ones(graph.input_channels or 1, dtype=torch.float64)  # of the images, which no layer shows
    for node in body:
        if other.is_a(node, *Norm, *Activation, Affine, FixedSize, Lift):
            other.bypass(node)
        elif other.is_a(node, *Weighted, nn.AvgPool2d):
            layer: Any = other[node]
            value = value if isinstance(layer, nn.AvgPool2d) else value.new_ones(layer.weight.shape[0])
            other.replace(node, _without_numbers(layer, value))
            decode = [node]
    other.insert_after(other.input(), "encode", encode, body)
    for node in decode:
        other.insert_after(node, "decode", Decode(value, graph.dtype, Dynamics()))
    other.tidy()
    return other


def _without_numbers(layer: Any, value: Tensor) -> nn.Module:
    """A spiking layer of the size of one without spikes; what is written of it tells its size, and is not there."""
    if isinstance(layer, nn.AvgPool2d):
        return SpikeAvgPool2d.compiled(layer, value, Dynamics())
    spiking: Any = layer_like(layer, SpikeConv2d, SpikeLinear)
    spiking.bits = 1
    spiking.register_buffer("codes", torch.empty(0, dtype=torch.int8))
    for name in ("threshold", "leak", "step", "spike_value", "real_threshold", "real_bias"):
        spiking.register_buffer(name, value)
    return spiking.eval()


def _require_calibrated(graph: Graph) -> None:
    """Each layer to be substituted must have its n-bit weights and its threshold by now."""
    findings = []
    if not graph.body(*Weighted):
        findings.append(NOTHING_TO_CONVERT)
    for node in graph.body(*Weighted):
        behind = graph.sole_user(node)
        if not graph.is_a(node, LowBitConv2d, LowBitLinear):
            findings.append(graph.finding(node, "it has no n-bit weights yet", "Run QuantizeWeights first"))
        if behind is None or not graph.is_a(behind, ClippedReLU, RateReLU):
            findings.append(
                graph.finding(
                    node,
                    "it has no ClippedReLU of its own behind it",
                    "Run CheckConvRelu, FoldBatchNorm and CalibrateThresholds first",
                )
            )
    if findings:
        raise ModelError(findings)
