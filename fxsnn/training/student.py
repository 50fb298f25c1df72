"""The network in training: a graph whose weights, steps and thresholds learn, and the integers that it stands for."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.node import Node

from fxsnn.calibration import forget_calibration
from fxsnn.chip import HardwareTarget
from fxsnn.errors import ModelError
from fxsnn.graph import Graph, Pooling
from fxsnn.layers import Add, AnyPool2d, Bound, ClippedReLU, LowBit, RateReLU, Wiring, input_shift, layer_like, through
from fxsnn.network import SpikingNetwork
from fxsnn.numerics import Dynamics, IntegerNeuron, JointNeuron
from fxsnn.numerics.lowbit import spread
from fxsnn.rewriting import (
    Neurons,
    bias_of,
    branches_of,
    channel_units,
    has_neurons_elsewhere,
    input_scales,
    neurons_of,
    spiking_layers,
    step_ratio,
    substitute,
)

LEAST = 1 / 100
"""Training takes no threshold and no weight step below this share of where it started (of a layer's median step)."""


def float_form(graph: Graph) -> Graph:
    """The network before it was calibrated, quantised, corrected and trained: floating weights, its own ReLUs.

    Args:
        graph: with `LowBit` layers.
    """
    teacher = graph.copy()
    for node in teacher.nodes(LowBit):
        layer: Any = teacher[node]
        plain = layer_like(layer, nn.Conv2d, nn.Linear)
        plain.weight = nn.Parameter(layer.float_weight, requires_grad=False)
        plain.bias = None if layer.float_bias is None else nn.Parameter(layer.float_bias, requires_grad=False)
        teacher.replace(node, plain)
    for node in teacher.body(Add):
        add: Any = teacher[node]
        teacher.replace(node, Add(add.factor, add.float_shift).train(add.training))
    forget_calibration(teacher)
    return teacher


def _require_float32(graph: Graph) -> None:
    """Small updates would be lost in narrower types, and thresholds would be rounded to them."""
    remedy = 'Convert model.float(); fine-tuning has precision="bfloat16" for mixed precision'
    findings = []
    for node in graph.body(LowBit):
        layer: Any = graph[node]
        if layer.weight.dtype.itemsize < torch.float32.itemsize:
            findings.append(graph.finding(node, f"its weights are {layer.weight.dtype}, too narrow to learn", remedy))
    if findings:
        raise ModelError(findings)


def _copy_of(bias: Tensor | None) -> nn.Parameter | None:
    return None if bias is None else nn.Parameter(bias.detach().clone())


class Student:
    """A graph that learns, and the integers that it stands for.

    Args:
        graph: with n-bit weights and calibrated thresholds; it is edited, its tensors are not.
        target: gives the widths of the registers.
        dynamics: of the spiking network.

    Raises:
        ModelError: weights or thresholds are missing, or weights have fewer bits than float32.
        TargetError: values that fit no register.
    """

    def __init__(self, graph: Graph, target: HardwareTarget, dynamics: Dynamics) -> None:
        _require_float32(graph)
        neurons_of(graph, target)  # what is wrong from the start is not the training's fault
        self.graph = graph
        self.target, self.dynamics = target, dynamics
        for node in graph.body(ClippedReLU):  # of an earlier training
            if graph.is_a(node.all_input_nodes[0], *Pooling):
                graph.bypass(node)
        self._layers: list[LowBit] = []
        for node in graph.body(LowBit):
            layer: Any = copy.deepcopy(graph[node])  # tensors of its own
            layer.learn_step()
            graph.replace(node, layer.requires_grad_(True))
            self._layers.append(layer)
        self._activations: list[RateReLU] = []
        dtype, device = self._layers[0].weight.dtype, self._layers[0].weight.device
        for node in graph.body(ClippedReLU):
            clipped: Any = graph[node]
            threshold = nn.Parameter(torch.tensor(clipped.threshold, dtype=dtype, device=device))
            self._activations.append(RateReLU(threshold, dynamics, clipped.bound))
            graph.replace(node, self._activations[-1])
        self._least = [activation.threshold * LEAST for activation in self._activations]
        self._least_steps = [float(layer.step.detach().median()) * LEAST for layer in self._layers]
        self._pooled = {}
        for node in graph.body(*Pooling):
            rounding, one = dynamics, torch.ones((), dtype=dtype, device=device)
            if graph.is_a(node, AnyPool2d):  # any rate can come of any reset
                pool: Any = graph[node]
                graph.replace(node, AnyPool2d(pool.rows, pool.columns, one.view(1)).train(pool.training))
                rounding = replace(dynamics, reset="subtraction", initial_membrane=0.5)
            module = RateReLU(one, rounding)
            self._pooled[node] = graph.insert_after(node, f"{graph.name(node)}_levels", module)
        self._neurons: dict[Node, Neurons] = {}
        self._scales = [float(one.detach().mean()) for one in self._steps_and_thresholds()]
        graph.module.recompile()
        self.round()

    def round(self, until: Node | None = None) -> None:
        """Bring thresholds, biases and units up to date: what the integers make of the present parameters.

        Args:
            until: only this layer, and poolings before it; those with weights and sums before it are up to date.

        Raises:
            TargetError: a value has left its register.
        """
        known = {}
        if until is not None:
            ordered = self.layers()
            known = {node: self._neurons[node] for node in ordered[: ordered.index(until)]}
        layers = neurons_of(self.graph, self.target, known, until)
        self._neurons = {layer.node: layer for layer in layers}
        units = self._channel_units(layers)
        outputs = self._outputs()
        for layer in layers:
            if layer.node in known:
                continue
            last = layer.node in outputs
            if layer.neuron is None:
                levels: Any = self.graph[self._pooled[layer.node]]
                given = units.get(layer.node, layer.source.value.new_tensor([layer.source.unit]))
                levels.spike_value = given.to(levels.unit.dtype)
                levels.unit = layer.source.value.to(levels.unit.dtype) if last else levels.spike_value
                pool: Any = self.graph[layer.node]
                if isinstance(pool, AnyPool2d):
                    pool.unit = levels.spike_value
                continue
            activation: Any = self.graph[layer.activation] if layer.activation is not None else None
            activation.spike_value = layer.neuron.spike_value.to(activation.spike_value.dtype)
            activation.unit = activation.spike_value if last else activation.spike_value.new_tensor([layer.signal.unit])
            error = self._error_of_leak(layer, layer.neuron)
            if isinstance(layer.neuron, JointNeuron):
                self._round_inputs(layer, layer.neuron, error, units)
            else:
                low: Any = self.graph[layer.node]
                low.bias_error = None if low.bias is None else error.to(low.weight.dtype)

    def _outputs(self) -> set[Node]:
        """The layers whose spikes the tail reads, past activations and wiring: there each channel counts by itself."""
        found, waiting = set[Node](), [one for one in (self.graph.end(),) if one is not None]
        while waiting:
            node = waiting.pop()
            if self.graph.is_a(node, RateReLU, Wiring):
                waiting += node.all_input_nodes
            else:
                found.add(node)
        return found

    def _channel_units(self, layers: list[Neurons]) -> dict[Node, Tensor]:
        """What readers take a spike of each channel for, if wiring puts unlike channels together; else nothing.

        Codes that hold it follow what it is by now.
        """
        if not self.graph.body(Wiring):
            return {}
        of_layers = {one.activation: one.signal.unit for one in layers if one.activation is not None}
        units = channel_units(self.graph, of_layers)
        scales = input_scales(self.graph, units)
        for node in self.graph.body(LowBit):
            low: Any = self.graph[node]
            if low.input_scale is not None:
                low.input_scale = scales.get(node, torch.ones_like(low.input_scale))
        return units

    def _error_of_leak(self, layer: Neurons, neuron: IntegerNeuron | JointNeuron) -> Tensor:
        """What rounding to the leak adds to a bias, in activation units, [C]."""
        grain = neuron.spike_value / neuron.threshold
        error: Tensor = neuron.leak * grain - bias_of(self.graph, layer.node, layer.inputs)
        return error

    def _round_inputs(self, layer: Neurons, neuron: JointNeuron, error: Tensor, units: Mapping[Node, Tensor]) -> None:
        """Let a sum add what its neurons do: weights that fit whole gains, spikes times whole numbers.

        An activation gives its readers rates times one unit; in a sum each channel counts by its own spike value.
        Where wiring stands between, `units` has that unit for each channel.
        """
        add: Any = self.graph[layer.node]
        ratios = []
        branches = branches_of(self.graph, layer.node, layer.inputs)
        for number, (read, one) in enumerate(zip(self.graph.inputs(layer.node), layer.inputs, strict=True)):
            branch, low = branches[number]
            unit = units.get(read, error.new_tensor([one.source.unit]))
            given = (add.factor[number] * unit.repeat_interleave(len(error) // len(unit))).expand(len(error))
            if low is not None:
                ratio = step_ratio(neuron, number, branch)
                low.step_ratio, given = ratio.to(low.step.dtype), branch.weight * ratio
            ratios.append(torch.where(given == 0, 1.0, neuron.gains[number] * neuron.grain / given))
        add.correction = torch.stack(ratios), error

    def groups(self, *, weight_decay: float, relative: bool) -> list[dict[str, Any]]:
        """Parameters for an optimiser: only weights decay. The learning rate of each group is to be times its "scale".

        Args:
            weight_decay: of the weights.
            relative: the optimiser moves every parameter by about the learning rate; for steps and thresholds that is
                then taken relative to them.
        """
        biases = [layer.bias for layer in self._layers if layer.bias is not None]
        return [
            {"params": [layer.weight for layer in self._layers], "weight_decay": weight_decay, "scale": 1.0},
            {"params": biases, "weight_decay": 0.0, "scale": 1.0},
            *(
                {"params": [one], "weight_decay": 0.0, "scale": scale if relative else 1.0}
                for one, scale in zip(self._steps_and_thresholds(), self._scales, strict=True)
            ),
        ]

    def _steps_and_thresholds(self) -> list[Tensor]:
        return [layer.step for layer in self._layers] + [activation.upper for activation in self._activations]

    def confine(self) -> None:
        """Keep steps and thresholds positive."""
        for layer, least in zip(self._layers, self._least_steps, strict=True):
            layer.raise_step(least)
        with torch.no_grad():
            for activation, least in zip(self._activations, self._least, strict=True):
                activation.upper.clamp_(min=least)

    def layers(self) -> list[Node]:
        """The layers of the body with an activation of their own, in order: those with weights, and sums."""
        nodes = self.graph.body(LowBit, Add)
        return [node for node in nodes if self.graph.is_a(node, Add) or not has_neurons_elsewhere(self.graph, node)]

    def weighted_inputs(self, node: Node) -> list[Node]:
        """A layer with weights itself; of a sum, those of its inputs that have weights."""
        if self.graph.is_a(node, LowBit):
            return [node]
        return list(dict.fromkeys(read for read in node.all_input_nodes if self.graph.is_a(read, LowBit)))

    def low_bit(self, node: Node) -> LowBit:
        """A layer with weights."""
        layer: Any = self.graph[node]
        assert isinstance(layer, LowBit)
        return layer

    def spike_value(self, node: Node) -> Tensor:
        """What a spike of each channel of a layer is worth, [C], in activation units."""
        activation = self._activation(node)
        value: Tensor = activation.spike_value
        return value

    def set_codes(self, node: Node, codes: Tensor, step: Tensor | None = None) -> None:
        """Give a layer with weights other codes, [C, inputs], and if it has a bias of its own other steps, [C].

        Layers behind it wait for `round`.
        """
        low: Any = self.low_bit(node)
        shift = input_shift(low)
        with torch.no_grad():
            before = None if shift is None or low.bias is None else through(low, shift, low.quantized_weight())
            if step is not None:
                low.step.copy_(step.to(low.step.dtype))
            real = low.step.double() if low.step_ratio is None else low.step.double() * low.step_ratio
            low.shadow(codes.view_as(low.weight) * spread(real, low.weight))
            if before is not None and shift is not None:  # what was added to the inputs goes through the new weights
                low.bias += (through(low, shift, low.quantized_weight()) - before).to(low.bias.dtype)

    def snapshot(self, node: Node) -> Callable[[], None]:
        """What brings a layer, its weighted inputs and its threshold back to what they are now."""
        graph, layer = self.graph, self.graph[node]
        lows = [self.low_bit(one) for one in self.weighted_inputs(node)]
        tensors = [
            (low.weight.detach().clone(), low.step.detach().clone(), _copy_of(low._parameters["bias"])) for low in lows
        ]
        threshold = self.threshold(node)

        def back() -> None:
            with torch.no_grad():
                for low, (weight, step, bias) in zip(lows, tensors, strict=True):
                    low.weight.copy_(weight)
                    low.step.copy_(step)
                    low.register_parameter("bias", _copy_of(bias))
            if graph[node] is not layer:
                graph.replace(node, layer)
            self.set_threshold(node, threshold)

        return back

    def move_bias(self, node: Node, by: Tensor) -> None:
        """Add to the bias of a layer, [C], or to the shift of a sum; a layer gets one where it has none.

        Layers behind it wait for `round`.
        """
        layer: Any = self.graph[node]
        if isinstance(layer, Add):
            self.graph.replace(node, Add(layer.factor, layer.shift + by, layer.float_shift).train(layer.training))
        else:
            with torch.no_grad():
                bias = torch.zeros(len(by), dtype=torch.float64, device=by.device) if layer.bias is None else layer.bias
                layer.bias = nn.Parameter((bias.double() + by).to(layer.weight.dtype))
        self.round(node)

    def _activation(self, node: Node) -> Any:
        """What stands behind a layer with neurons."""
        return self.graph[next(iter(node.users))]

    def threshold(self, node: Node) -> float:
        """The threshold behind a layer, in activation units."""
        activation = self._activation(node)
        return float(activation.threshold)

    def bound(self, node: Node) -> Bound | None:
        """Where the network's own activation behind a layer ends, if it does."""
        activation = self._activation(node)
        bound: Bound | None = activation.bound
        return bound

    def set_threshold(self, node: Node, threshold: float) -> None:
        """Set the threshold behind a layer; 0 leaves it as it is. Layers behind it wait for `round`."""
        if threshold > 0:
            activation = self._activation(node)
            with torch.no_grad():
                activation.upper.fill_(threshold)
            self.round(node)

    def tensors(self) -> dict[str, Tensor]:
        """Everything that is trained, by name."""
        found: dict[str, Tensor] = {}
        for i, layer in enumerate(self._layers):
            found.update({f"layer{i}.{name}": parameter for name, parameter in layer.named_parameters()})
        found.update({f"threshold{i}": activation.upper for i, activation in enumerate(self._activations)})
        return found

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over the values of `tensors`."""
        with torch.no_grad():
            for name, tensor in self.tensors().items():
                tensor.copy_(tensors[name])
        self.round()

    def spiking(self) -> SpikingNetwork:
        """The spiking network that it stands for."""
        graph = self.graph.copy()
        substitute(graph, self.target, self.dynamics)
        graph.tidy()
        return SpikingNetwork(graph, self.target)

    def spiking_layer(self, node: Node) -> nn.Module:
        """What stands in the spiking network in the place of a node of the body: neurons, synapses, or nothing."""
        behind = self.graph.sole_user(node) if self.graph.is_a(node, LowBit) else None
        of = behind if behind in self._neurons else node
        if of in self._neurons:
            return spiking_layers(self.graph, self._neurons[of], self.dynamics)[node]
        return self.graph[node] if self.graph.is_a(node, nn.Flatten, Wiring) else nn.Identity()

    def simulate(self, images: Tensor, network: SpikingNetwork | None = None) -> None:
        """Let the next forward pass have the rates that the spiking network has on these images.

        Args:
            images: [N, C, H, W].
            network: the present one, if it is at hand.
        """
        self.forget()  # a copy would take the last rates with it
        counts = (network or self.spiking()).count_spikes(images)
        for layer in neurons_of(self.graph, self.target):
            behind = self._pooled[layer.node] if layer.activation is None else layer.activation
            activation: Any = self.graph[behind]
            rates = counts[self.graph.name(layer.node)] / self.dynamics.timesteps
            activation.rates = rates.to(self._layers[0].weight.dtype)

    def forget(self) -> None:
        """Let the next forward pass round its rates itself."""
        for module in self.graph.module.modules():
            if isinstance(module, RateReLU):
                module.rates = None

    def finish(self) -> None:
        """Put the modules back that stand in a graph outside of training."""
        for node in self.graph.body(RateReLU):
            module: Any = self.graph[node]
            if node not in self._pooled.values():
                self.graph.replace(node, ClippedReLU(module.threshold, self.dynamics, bound=module.bound))
                continue
            (pool,) = node.all_input_nodes
            pooled = self._thresholds_in_front(pool)  # put back before it
            if len(pooled) == 1 and not self.graph.is_a(pool, AnyPool2d):
                self.graph.replace(node, ClippedReLU(pooled.pop(), self.dynamics, bound=module.bound))
            else:
                self.graph.bypass(node)  # levels of several sizes, or of what is a rate as it is
        for node in self.graph.body(Add):
            add: Any = self.graph[node]
            add.correction = None
        for layer in self._layers:
            layer.bias_error = layer.step_ratio = None
            layer.fix_step()
            for parameter in layer.parameters():
                parameter.grad = None

    def _thresholds_in_front(self, node: Node) -> set[float]:
        """Of the activations that a node reads, through what is only wiring."""
        found: set[float] = set()
        for read in node.all_input_nodes:
            activation: Any = self.graph[read] if self.graph.is_a(read, ClippedReLU) else None
            found |= self._thresholds_in_front(read) if activation is None else {activation.threshold}
        return found
