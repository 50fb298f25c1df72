"""The networks between an ANN and its spiking form: what sets the two apart, switched on effect by effect.

With all effects on, in the order of `EFFECTS`, the network computes the very spikes of the chip.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fxsnn.ambient import neutral
from fxsnn.calibration import Watch
from fxsnn.data import accepted
from fxsnn.graph import Graph, normalised_images
from fxsnn.insight.matching import MatchedLayer, float_network, matched_layers, unit_of
from fxsnn.layers import (
    Add,
    AnyPool2d,
    AverageFrames,
    BoundedReLU,
    Encode,
    ImageForm,
    QuantizedInput,
    SpikeAdd,
    Synapses,
    along_inputs,
    check_images,
    layer_like,
)
from fxsnn.network import SpikingNetwork
from fxsnn.numerics import Dynamics, integrate_and_fire, steady_spike_counts

EFFECTS: Mapping[str, str] = {
    "input": "images rounded to the integer input",
    "clipping": "activations end at the threshold",
    "weights": "n-bit weights (and the biases that were trained or corrected with them)",
    "rounding": "integer thresholds and leaks, one unit for all channels of a layer",
    "timesteps": "rates are multiples of 1/T",
    "timing": "spikes come unevenly",
}
"""What sets a spiking network apart from its ANN, in the order in which it is switched on."""

_TIE = 1 + 1e-12
"""Who reaches its threshold exactly spikes; sums of floating numbers may miss it by a rounding error."""


class RateNeurons(nn.Module):
    """A ReLU with some of the effects.

    Args:
        top: where it ends, [C] or [1].
        gain: what a reader takes 1 for, [C] or [1].
        dynamics: round to the rates of T steps; `None`: do not.
    """

    top: Tensor
    gain: Tensor

    def __init__(self, top: Tensor, gain: Tensor, dynamics: Dynamics | None) -> None:
        super().__init__()
        self.register_buffer("top", top)
        self.register_buffer("gain", gain)
        self.dynamics = dynamics

    def forward(self, z: Tensor) -> Tensor:
        """Activations [N, C, ...] from membrane drives of the same shape."""
        gain, top = _along_channels(self.gain, z), _along_channels(self.top, z)
        if self.dynamics is None:
            return torch.minimum(z.clamp_min(0), top) * gain
        return steady_spike_counts(z / top * _TIE, self.dynamics) / self.dynamics.timesteps * top * gain


class _TimedNeurons(nn.Module):
    """Neurons that run over time, [T * N, C, ...] to the same: spikes, in activation units.

    Args:
        threshold: integers, [C].
        top: what they are in activation units, [C].
        unit: what a reader takes a spike for, [C] or [1].
        dynamics: T, reset and start.
        whole: the drive is whole numbers in units of the threshold.
    """

    threshold: Tensor
    top: Tensor
    unit: Tensor

    def __init__(self, threshold: Tensor, top: Tensor, unit: Tensor, dynamics: Dynamics, *, whole: bool) -> None:
        super().__init__()
        self.register_buffer("threshold", threshold)
        self.register_buffer("top", top)
        self.register_buffer("unit", unit)
        self.dynamics, self.whole = dynamics, whole

    def forward(self, z: Tensor) -> Tensor:
        drive = z * _along_channels(self.threshold / self.top, z)
        drive = drive.round().long() if self.whole else drive
        spikes = integrate_and_fire(drive.unflatten(0, (self.dynamics.timesteps, -1)), self.threshold, self.dynamics)
        return spikes.flatten(0, 1).to(z.dtype) * _along_channels(self.unit, z)


class _EachFrame(nn.Module):
    """[N, T, ...] to [T * N, ...]: at every step its frame."""

    def forward(self, x: Tensor) -> Tensor:
        return ImageForm(frames=0).stills(x)


class _Repeat(nn.Module):
    """[N, ...] to [T * N, ...]: the same at every step."""

    def __init__(self, timesteps: int) -> None:
        super().__init__()
        self.timesteps = timesteps

    def forward(self, x: Tensor) -> Tensor:
        return x.repeat(self.timesteps, *[1] * (x.dim() - 1))


class _Mean(nn.Module):
    """[T * N, ...] to [N, ...]: the mean over time."""

    def __init__(self, timesteps: int) -> None:
        super().__init__()
        self.timesteps = timesteps

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(0, (self.timesteps, -1)).mean(0)


def _along_channels(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.dim() - 2))


@neutral()
def stage_networks(model: nn.Module, snn: SpikingNetwork) -> dict[str, Graph]:
    """The networks between an ANN and its spiking form; each runs on images, in double precision.

    Args:
        model: the network that was converted.
        snn: what it was converted to.

    Returns:
        "ann", and then one for each of `EFFECTS` in order, with that effect and all before it. The last one runs over
        time and makes the very spikes of `snn`.

    Raises:
        OptionError: `snn` was not converted from `model`.
    """
    ann, names = float_network(model, snn), tuple(EFFECTS)
    return {"ann": ann} | {name: _stage(ann, snn, set(names[: i + 1])) for i, name in enumerate(names)}


def _stage(ann: Graph, snn: SpikingNetwork, effects: set[str]) -> Graph:
    graph = ann.copy()
    layers, body, (normalised, _) = matched_layers(graph, snn), graph.body(), normalised_images(graph)
    averages = graph.body(AverageFrames)
    dynamics = snn.dynamics
    units, end = {layer.name: layer.unit for layer in layers}, graph.end()
    for layer in layers:
        source: Any = graph[layer.node]
        if layer.pools:
            # The maximum of levels is a level, and that of spikes at each step is what any pooling gives.
            if "timesteps" in effects and not isinstance(source, AnyPool2d):
                _insert_after_pool(graph, layer, dynamics, timed="timing" in effects)
            continue
        spiking: Any = layer.spiking
        if "weights" in effects:
            whole = "rounding" in effects
            if isinstance(spiking, SpikeAdd):
                graph.replace(layer.node, _with_weights(snn, layer, source, units, rounded=whole))
            else:
                (read,) = snn.graph.calls(layer.name)[0].all_input_nodes
                unit = unit_of(snn.graph, read, units)
                graph.replace(layer.node, _with_codes(source, spiking, unit, rounded=whole))
        if layer.fires and (neurons := _neurons(layer, graph[layer.out], dynamics, effects)) is not None:
            graph.replace(layer.out, neurons)
    encode, timed = encoder_of(snn), "timing" in effects
    start = graph.input()
    if rounds := "input" in effects and encode.bits is not None:
        rounded = QuantizedInput(encode.unit, encode.bits, encode.affine, frames=bool(averages) and not timed)
    if averages and (rounds or timed):
        graph.bypass_for(body, averages)
        body = [node for node in body if node not in averages]
    if averages and timed:
        start = graph.insert_after(start, "each_frame", _EachFrame(), body)
    if rounds and encode.affine is None:
        start = graph.insert_after(start, "quantized_input", rounded, body)
    elif rounds:
        start = normalised
        graph.replace(start, rounded)
    if timed:
        if not averages:
            graph.insert_after(start, "every_step", _Repeat(dynamics.timesteps), body)
        assert end is not None
        last = next(iter(end.users)) if graph.is_a(end, nn.AvgPool2d) else end  # a pooling has its neurons behind it
        graph.insert_after(last, "mean_over_time", _Mean(dynamics.timesteps))
    graph.tidy()
    return graph


def _neurons(layer: MatchedLayer, activation: nn.Module, dynamics: Dynamics, effects: set[str]) -> nn.Module | None:
    """What takes the place of an activation; `None`: it stays."""
    spiking: Any = layer.spiking
    value = spiking.spike_value
    if "timing" in effects:
        whole = spiking.input_magnitude is not None
        return _TimedNeurons(spiking.threshold.double(), value, layer.unit, dynamics, whole=whole)
    if "clipping" in effects:
        top = value if "rounding" in effects else spiking.real_threshold
        gain = layer.unit / value if "rounding" in effects else torch.ones_like(spiking.real_threshold)
        return RateNeurons(top, gain, dynamics if "timesteps" in effects else _own_levels(activation))
    return None


def _own_levels(activation: nn.Module) -> Dynamics | None:
    """Rates of as many levels as the network's own activation has; `None`: it has none."""
    levels = activation.bound.levels if isinstance(activation, BoundedReLU) else None
    return None if levels is None else Dynamics(levels)


def _insert_after_pool(graph: Graph, layer: MatchedLayer, dynamics: Dynamics, *, timed: bool) -> None:
    pool: Any = layer.spiking
    unit = layer.unit if len(layer.unit) > 1 else layer.unit.expand(len(pool.threshold))
    neurons: nn.Module = RateNeurons(unit, torch.ones_like(unit), dynamics)
    if timed:
        neurons = _TimedNeurons(pool.threshold.double(), unit, unit, dynamics, whole=True)
    graph.insert_after(layer.out, f"{layer.name}_neurons", neurons)


def _with_codes(source: Any, spiking: Any, unit: Tensor, *, rounded: bool) -> nn.Module:
    """The layer with n-bit weights, and with the bias as it was before or after it was rounded to the leak.

    What a weighted input of a sum has for a bias is in the sum. What inputs are worth, `unit`, is in the codes where it
    differs.
    """
    new: Any = layer_like(source, nn.Conv2d, nn.Linear)
    weight = spiking.codes * spiking.step.view(-1, *[1] * (spiking.codes.dim() - 1))
    if len(unit) > 1:
        inputs = source.weight.shape[1] * getattr(source, "groups", 1)
        each = unit.repeat_interleave(inputs // len(unit))
        weight = weight * along_inputs(spiking.input_unit / each, source)
    if isinstance(spiking, Synapses):
        new.weight, new.bias = nn.Parameter(weight, requires_grad=False), None
        return new
    bias = spiking.leak * (spiking.spike_value / spiking.threshold) if rounded else spiking.real_bias
    new.weight = nn.Parameter(weight, requires_grad=False)
    new.bias = nn.Parameter(bias, requires_grad=False)
    return new


def _with_weights(
    snn: SpikingNetwork, layer: MatchedLayer, source: Any, units: Mapping[str, Tensor], *, rounded: bool
) -> Add:
    """The sum with its bias, before or after it was rounded to the leak and its inputs to whole gains."""
    spiking: Any = layer.spiking
    if not rounded:
        return Add(source.factor, spiking.real_bias).eval()
    graph, factors = snn.graph, []
    (node,) = graph.calls(layer.name)
    for read, factor, weight in zip(node.all_input_nodes, source.factor, spiking.weights, strict=True):
        if graph.is_a(read, Synapses):
            synapses: Any = graph[read]
            factors.append(factor * (synapses.gain != 0))  # their steps fit their gains, but where these are nothing
        else:
            unit = unit_of(graph, read, units)
            unit = unit.repeat_interleave(len(weight) // len(unit)) if len(unit) > 1 else unit
            factors.append(weight * spiking.step / unit)
    return Add(torch.stack(factors), spiking.leak * spiking.step).eval()


def encoder_of(snn: SpikingNetwork) -> Encode:
    """What turns images into the integer input."""
    encode = snn.graph[snn.graph.nodes(Encode)[0]]
    assert isinstance(encode, Encode)
    return encode


@neutral()
def layer_activations(model: nn.Module, snn: SpikingNetwork, images: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """By layer, the activations of the ANN, and what the firing rates of the spiking network stand for.

    Args:
        model: the network that was converted.
        snn: what it was converted to.
        images: [N, C, H, W].

    Returns:
        Pairs of float64 tensors [N, C, ...]; `fxsnn.plots.activation_scatter` draws one. Weighted inputs of sums have
        no activations and are left out.

    Raises:
        OptionError: `snn` was not converted from `model`.
        DataError: the images are no images for the network.
    """
    ann = float_network(model, snn)
    layers = [layer for layer in matched_layers(ann, snn) if layer.fires]
    check_images(images, ann.image_form)
    with torch.no_grad():
        analog = float_activations(ann, layers, images.to(snn.device, torch.float64))
        real = real_activations(snn, layers, images.to(snn.device, torch.float32))
    return {layer.name: (analog[layer.name], real[layer.name]) for layer in layers}


def float_activations(ann: Graph, layers: Sequence[MatchedLayer], images: Tensor) -> dict[str, Tensor]:
    """Activations of the ANN, by layer."""
    names = {layer.out: layer.name for layer in layers}
    found: dict[str, Tensor] = {}
    with accepted(images):
        Watch(ann, names, lambda node, value: found.__setitem__(names[node], value)).run(images)
    return found


def real_activations(snn: SpikingNetwork, layers: Sequence[MatchedLayer], images: Tensor) -> dict[str, Tensor]:
    """What readers take the rates of the spiking network for, by layer; of those that spike."""
    counts = snn.count_spikes(images)
    rates = {name: count.double() / snn.timesteps for name, count in counts.items()}
    fire = [layer for layer in layers if layer.fires]
    return {layer.name: rates[layer.name] * _along_channels(layer.unit, rates[layer.name]) for layer in fire}
