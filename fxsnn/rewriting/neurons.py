"""What is to spike: the neurons of a graph, what they read, and the integers that they get."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.fx.node import Node

from fxsnn.chip import HardwareTarget
from fxsnn.errors import Finding, ModelError, TargetError
from fxsnn.graph import Graph, Pooling, Weighted, normalised_images
from fxsnn.layers import (
    Add,
    Affine,
    ClippedReLU,
    Encode,
    LowBit,
    LowBitConv2d,
    LowBitLinear,
    QuantizedInput,
    RateReLU,
    Wiring,
)
from fxsnn.numerics import (
    Branch,
    IntegerNeuron,
    JointNeuron,
    RegisterError,
    integer_neuron,
    joint_neuron,
)

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
        images: it comes of the images, not of spikes; without frames that is constant.
    """

    value: Tensor
    magnitude: int | None = 1
    constant: bool = False
    images: bool = False

    @property
    def unit(self) -> float:
        """One value for all channels.

        With a weight step per channel, each channel's threshold is rounded by itself and its spike value differs from
        the others' by at most one part in twice the threshold. A reader sums over all of them with integer weights,
        so it takes their mean.
        """
        return float(self.value.mean())


@dataclass(frozen=True)
class Input:
    """One of the inputs of a layer of the body that is to spike.

    Attributes:
        source: the spikes that it reads, or the images.
        synapses: the layer with n-bit weights whose sums these neurons add up; `None`: their own, or none.
    """

    source: Signal
    synapses: Node | None = None


@dataclass(frozen=True)
class Neurons:
    """A layer of the body that is to spike.

    Attributes:
        node: the convolution, fully connected layer, pooling or sum.
        inputs: what it reads; several of a sum.
        neuron: its integers; `None` for a pooling.
        activation: the node of its ReLU; `None` for a pooling.
    """

    node: Node
    inputs: tuple[Input, ...]
    neuron: IntegerNeuron | JointNeuron | None
    activation: Node | None

    @property
    def source(self) -> Signal:
        """What it reads first."""
        return self.inputs[0].source

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
    return _signals(graph, target, known, until)[0]


def decoded_values(graph: Graph, target: HardwareTarget) -> tuple[list[Neurons], Tensor]:
    """All layers that are to spike, and what a spike of each channel is worth that the tail reads, float64 [C].

    Raises:
        ModelError: as `neurons_of`.
        TargetError: as `neurons_of`.
    """
    layers, signals = _signals(graph, target)
    end = graph.end()
    assert end is not None  # else there was nothing to convert
    return layers, signals[end].value


def _signals(
    graph: Graph, target: HardwareTarget, known: Mapping[Node, Neurons] | None = None, until: Node | None = None
) -> tuple[list[Neurons], dict[Node, Signal]]:
    """The layers, and what each node of the body gives."""
    _require_calibrated(graph)
    signals = {graph.input(): encoding(graph)[1]}
    synapses: dict[Node, Input] = {}
    findings: list[Finding] = []
    found = []
    for node in graph.body():
        if node.op != "call_module":
            continue
        layer: Any = graph[node]
        inputs = tuple(
            synapses[read] if read in synapses else Input(_signal(graph, node, read, signals))
            for read in graph.inputs(node)
        )
        if isinstance(layer, Affine) and not inputs[0].source.images:
            remedy = "Run MoveAffine and GiveAffineNeurons first"
            raise ModelError([graph.finding(node, "it scales or shifts spikes, which no neurons can compute", remedy)])
        if isinstance(layer, LowBit) and layer.input_scale is not None:
            value = inputs[0].source.value  # of all inputs together, whose differences are in the codes
            each = value.repeat_interleave(len(layer.input_scale) // len(value))
            inputs = (Input(replace(inputs[0].source, value=each)),)
        if graph.is_a(node, LowBit) and has_neurons_elsewhere(graph, node):
            synapses[node] = Input(inputs[0].source, node)
        elif known is not None and node in known:
            found.append(known[node])
            signals[node] = found[-1].signal
        elif graph.is_a(node, LowBit, Add):
            activation = graph.sole_user(node)
            assert activation is not None
            neuron = _neuron(graph, node, activation, inputs, target, findings)
            found.append(Neurons(node, inputs, neuron, activation))
            signals[node] = found[-1].signal
        else:
            if graph.is_a(node, *Pooling):
                found.append(Neurons(node, inputs, None, None))
            signals[node] = inputs[0].source
            if isinstance(layer, Wiring) and not inputs[0].source.images:  # images have one value for all channels
                value = layer.of_channels([one.source.value for one in inputs])
                signals[node] = replace(inputs[0].source, value=value)
        if node is until:
            break
    if findings:
        raise TargetError(findings)
    return found, signals


def has_neurons_elsewhere(graph: Graph, node: Node) -> bool:
    """Whether the sums of a layer with weights are added to others, by neurons that are not its own."""
    return graph.is_a(graph.sole_user(node), Add)


def channel_units(graph: Graph, units: Mapping[Node, float] | None = None) -> dict[Node, Tensor]:
    """What readers take a spike of each channel for, float64 [C], of what comes of activations by pooling and wiring.

    Args:
        graph: with calibrated thresholds; without them all channels are alike.
        units: what they take a spike of each activation for; `None`: as its threshold says.
    """
    values: dict[Node, Tensor] = {}
    for node in graph.body():
        read = [values[one] for one in graph.inputs(node) if one in values]
        module: Any = graph[node] if node.op == "call_module" else None
        if isinstance(module, Weighted):
            values[node] = torch.ones(module.weight.shape[0], dtype=torch.float64, device=graph.device)
        elif read:
            values[node] = module.of_channels(read) if isinstance(module, Wiring) else max(read, key=len)
            unit = getattr(module, "threshold", None) if units is None else units.get(node)
            if isinstance(module, ClippedReLU | RateReLU) and unit is not None:
                values[node] = torch.full_like(values[node], unit)
    return values


def input_scales(graph: Graph, units: Mapping[Node, Tensor]) -> dict[Node, Tensor]:
    """What spikes of each input are worth, relative to their mean, for the layers with weights where it differs.

    Args:
        graph: the network.
        units: see `channel_units`.
    """
    found: dict[Node, Tensor] = {}
    for node in graph.body(*Weighted):
        layer: Any = graph[node]
        read = units.get(node.all_input_nodes[0])
        if read is not None and float(read.min()) != float(read.max()):
            value = read.repeat_interleave(layer.weight.shape[1] * getattr(layer, "groups", 1) // len(read))
            found[node] = value / value.mean()
    return found


def _signal(graph: Graph, node: Node, read: Node, signals: Mapping[Node, Signal]) -> Signal:
    if read not in signals:
        problem = f"it reads {graph.name(read)}, which no neurons can compute"
        raise ModelError([graph.finding(node, problem, "Run Canonicalize and CheckConvRelu first")])
    return signals[read]


def encoding(graph: Graph) -> tuple[Encode, Signal]:
    """The encoder of a graph whose thresholds are calibrated, and what it gives."""
    quantized: Any = next((graph[node] for node in graph.body(QuantizedInput)), None)
    unit, bits = (1.0, None) if quantized is None else (quantized.unit, quantized.bits)
    affine = normalised_images(graph)[1] if quantized is None else quantized.affine
    encode = Encode(unit, bits, graph.image_form, affine)
    value = torch.full((1,), unit, dtype=torch.float64, device=graph.device)
    return encode, Signal(value, encode.magnitude, constant=encode.form.frames is None, images=True)


def _neuron(
    graph: Graph,
    node: Node,
    activation: Node,
    inputs: tuple[Input, ...],
    target: HardwareTarget,
    findings: list[Finding],
) -> IntegerNeuron | JointNeuron:
    clipped: Any = graph[activation]
    try:
        if graph.is_a(node, Add):
            return joint_neuron(
                branches=[branch for branch, _ in branches_of(graph, node, inputs)],
                bias=bias_of(graph, node, inputs),
                threshold=clipped.threshold,
                registers=target.registers,
            )
        layer: Any = graph[node]
        return integer_neuron(
            step=layer.step.detach().double().expand(layer.weight.shape[0]),
            bias=bias_of(graph, node, inputs),
            threshold=clipped.threshold,
            unit=inputs[0].source.unit,
            codebook=layer.codebook,
            registers=target.registers,
        )
    except RegisterError as error:
        findings.append(graph.finding(node, f"{error.problem} ({target.name})", error.remedy))
        # What stands behind is held against its registers too, with the threshold as it is.
        bias = bias_of(graph, node, inputs)
        none = torch.zeros(len(bias), dtype=torch.int32, device=bias.device)
        return IntegerNeuron(1, none + 1, none, torch.full_like(bias, clipped.threshold))


def _channels(graph: Graph, node: Node, inputs: tuple[Input, ...]) -> int:
    """Output channels of a sum, or features."""
    add: Any = graph[node]
    weighted: list[Any] = [graph[one.synapses] for one in inputs if one.synapses is not None]
    return max([add.factor.shape[1], *(len(one.source.value) for one in inputs if one.synapses is None),
                *(len(layer.weight) for layer in weighted)])  # fmt: skip


def branches_of(graph: Graph, node: Node, inputs: tuple[Input, ...]) -> list[tuple[Branch, Any]]:
    """What the inputs of a sum add, and their layers with weights, `None` where they have none."""
    add: Any = graph[node]
    channels = _channels(graph, node, inputs)
    found: list[tuple[Branch, Any]] = []
    for one, factor in zip(inputs, add.factor, strict=True):
        if one.synapses is None:
            value = one.source.value
            if len(value) > 1:  # of maps that were flattened, each channel's for all of its places
                value = value.repeat_interleave(channels // len(value))
            found.append((Branch((factor * value).expand(channels)), None))
        else:
            layer: Any = graph[one.synapses]
            weight = factor * layer.step.detach().double() * one.source.unit
            found.append((Branch(weight.expand(channels), layer.codebook.largest), layer))
    return found


def step_ratio(neuron: JointNeuron, number: int, branch: Branch) -> Tensor:
    """By what the weight step of an input of a sum is multiplied so that its gain is a whole number exactly, [C].

    A gain can be as small as 4 beside an input that is added as it is, and would be off by an eighth: codes are of the
    step that fits the gain.
    """
    ratio: Tensor = neuron.gains[number].abs() * neuron.grain / branch.weight.abs()
    return torch.where((neuron.gains[number] == 0) | (branch.weight == 0), 1.0, ratio)


def bias_of(graph: Graph, node: Node, inputs: tuple[Input, ...]) -> Tensor:
    """What a layer's neurons add at every step in activation units, [C] in float64: of a sum, that of all inputs."""
    layer: Any = graph[node]
    if not graph.is_a(node, Add):
        step = layer.step.detach().double().expand(layer.weight.shape[0])
        return torch.zeros_like(step) if layer.bias is None else layer.bias.detach().double()
    total: Tensor = layer.shift.expand(_channels(graph, node, inputs))
    for one, factor in zip(inputs, layer.factor, strict=True):
        weighted: Any = None if one.synapses is None else graph[one.synapses]
        if weighted is not None and weighted.bias is not None:
            total = total + factor * weighted.bias.detach().double()
    return total


def _require_calibrated(graph: Graph) -> None:
    """Each layer to be substituted must have its n-bit weights and its threshold by now."""
    findings = []
    if not graph.body(*Weighted):
        findings.append(NOTHING_TO_CONVERT)
    for node in graph.body(*Weighted, Add):
        behind = graph.sole_user(node)
        if not graph.is_a(node, LowBitConv2d, LowBitLinear, Add):
            findings.append(graph.finding(node, "it has no n-bit weights yet", "Run QuantizeWeights first"))
        added = graph.is_a(behind, Add) and not graph.is_a(node, Add)
        if behind is None or not (added or graph.is_a(behind, ClippedReLU, RateReLU)):
            findings.append(
                graph.finding(
                    node,
                    "it has no ClippedReLU of its own behind it",
                    "Run CheckConvRelu, FoldBatchNorm and CalibrateThresholds first",
                )
            )
    if findings:
        raise ModelError(findings)
