"""SubstituteSpikes: the body becomes integer spiking layers; the tail is left untouched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.node import Node

from fxsnn.errors import Finding, ModelError, TargetError
from fxsnn.graph import Graph, Weighted
from fxsnn.layers import (
    ClippedReLU,
    Decode,
    Encode,
    LowBit,
    LowBitConv2d,
    LowBitLinear,
    QuantizedInput,
    SpikeAvgPool2d,
    spiking_form,
)
from fxsnn.neuron import Dynamics, RegisterError, integer_neuron
from fxsnn.stages import Pass, facts
from fxsnn.target import HardwareTarget


@dataclass(frozen=True)
class _Signal:
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


class SubstituteSpikes(Pass):
    """conv + ReLU → SpikeConv2d, fully connected + ReLU → SpikeLinear, AvgPool2d → SpikeAvgPool2d.

    The images are encoded once at the input, spike counts are decoded once in front of the tail. Thresholds and leaks
    become integers with the largest codebook gain at which all registers of the target still fit.

    Args:
        target: gives the widths of the registers.
        timesteps: T.
        reset: "subtraction" or "zero".
        initial_membrane: where membranes start, as a share of the threshold: 0.5 or 0.
    """

    target: HardwareTarget
    timesteps: int = 16
    reset: str = "subtraction"
    initial_membrane: float = 0.5

    needs = facts("convertible", "thresholds", "low-bit-weights")
    gives = facts("spikes")

    def __post_init__(self) -> None:
        self.dynamics()

    def dynamics(self) -> Dynamics:
        """Timesteps, reset and start of the membranes, checked."""
        return Dynamics(self.timesteps, self.reset, self.initial_membrane)

    def rewrite(self, graph: Graph) -> None:
        """Edit `graph` in place."""
        _require_calibrated(graph)
        dtype = _type_behind(graph)
        encoded = self._encode(graph)
        signals = dict.fromkeys((graph.input(), *graph.nodes(Encode)), encoded)
        findings: list[Finding] = []
        last = None
        for node in graph.body():
            if node.op != "call_module" or graph.is_a(node, Encode):
                continue
            source = signals[_source(node, signals)]
            if graph.is_a(node, LowBit):
                signals[node] = self._convert_layer(graph, node, source, findings)
                last = node
            elif graph.is_a(node, nn.AvgPool2d):
                pool: Any = graph[node]
                graph.replace(node, SpikeAvgPool2d.compiled(pool, source.value, self.dynamics()))
                signals[node] = _Signal(source.value)
                last = node
            elif graph.is_a(node, ClippedReLU):
                graph.bypass(node)  # its threshold is in the neurons now
            else:
                signals[node] = source
        if findings:
            raise TargetError(findings)
        assert last is not None
        graph.insert_after(last, "decode", Decode(signals[last].value, dtype, self.dynamics()))

    def _encode(self, graph: Graph) -> _Signal:
        images = graph.input()
        quantized = next((graph[node] for node in graph.body(QuantizedInput)), None)
        unit, bits = (quantized.unit, quantized.bits) if isinstance(quantized, QuantizedInput) else (1.0, None)
        encode = Encode(unit, bits, graph.input_channels)
        for node in graph.body(QuantizedInput):
            graph.bypass(node)
        graph.insert_after(images, "encode", encode)
        device = next(graph.module.parameters()).device
        value = torch.full((1,), unit, dtype=torch.float64, device=device)
        return _Signal(value, encode.magnitude, constant=True)

    def _convert_layer(self, graph: Graph, node: Node, source: _Signal, findings: list[Finding]) -> _Signal:
        layer: Any = graph[node]
        behind = graph.sole_user(node)
        assert behind is not None
        clipped: Any = graph[behind]
        channels = layer.weight.shape[0]
        step = layer.step.double().expand(channels)
        bias = layer.bias.detach() if layer.bias is not None else torch.zeros_like(step)
        try:
            neuron = integer_neuron(
                step=step,
                bias=bias,
                threshold=clipped.threshold,
                unit=source.unit,
                bits=layer.bits,
                registers=self.target.registers,
            )
        except RegisterError as error:
            findings.append(graph.finding(node, f"{error.problem} ({self.target.name})", error.remedy))
            return _Signal(step.new_full((channels,), clipped.threshold))
        spiking = spiking_form(
            layer,
            neuron,
            self.dynamics(),
            input_unit=source.unit,
            input_magnitude=source.magnitude,
            constant_input=source.constant,
        )
        graph.replace(node, spiking)
        return _Signal(neuron.spike_value)


def _type_behind(graph: Graph) -> torch.dtype:
    """The type that the tail computes in: that of its own parameters, or of the network's where it has none."""
    tail = [graph[node] for node in graph.tail() if node.op == "call_module"]
    parameters = [parameter for module in tail for parameter in module.parameters()]
    return next(iter([*parameters, *graph.module.parameters()])).dtype


def _source(node: Node, signals: dict[Node, _Signal]) -> Node:
    """The input of a node, past activations that were taken out."""
    source = node.all_input_nodes[0]
    return source if source in signals else _source(source, signals)


def _require_calibrated(graph: Graph) -> None:
    """Each layer to be substituted must have its n-bit weights and its threshold by now."""
    findings = []
    for node in graph.body(*Weighted):
        behind = graph.sole_user(node)
        if not graph.is_a(node, LowBitConv2d, LowBitLinear):
            findings.append(graph.finding(node, "it has no n-bit weights yet", "Run QuantizeWeights first"))
        if behind is None or not graph.is_a(behind, ClippedReLU):
            findings.append(
                graph.finding(
                    node,
                    "it has no ClippedReLU of its own behind it",
                    "Run CheckConvRelu, FoldBatchNorm and CalibrateThresholds first",
                )
            )
    if findings:
        raise ModelError(findings)
