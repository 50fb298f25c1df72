"""The layers of the body of a network file, made again: each number is held against all others, and against the target.

Each node of the body gives a `Signal`, and what reads it must fit that. What is wrong is told, and the next node looked
at; what follows from something wrong is not known, and not told as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from fxsnn.chip import HardwareTarget
from fxsnn.file.arrays import FLOATS, Arrays
from fxsnn.file.document import LEVELS_SINCE
from fxsnn.file.limits import Limits
from fxsnn.file.schema_check import Document, Problems
from fxsnn.file.structure import Size, image_form_of, reads
from fxsnn.file.tail_layers import convolution_arguments
from fxsnn.file.wiring_layers import WORDS
from fxsnn.layers import (
    Affine,
    AnyPool2d,
    Channels,
    Decode,
    Encode,
    FlattenMaps,
    SpikeAdd,
    SpikeAnyPool2d,
    SpikeAvgPool2d,
    SpikeConv2d,
    SpikeLinear,
    SynapseConv2d,
    SynapseLinear,
    Synapses,
    Taps,
    WithinChannels,
    fill,
)
from fxsnn.numerics import Codebook, Dynamics, IntegerNeuron, JointNeuron

_CAST = 2.0**-7
"""By so much what `decode` multiplies with may differ: a network may have been cast to bfloat16, and back."""

_RELATIVE = 1e-9
"""By so much a spike value may differ from threshold * step * unit / gain."""

_MOST_WIRED = 1 << 22
"""Of so many channels in all may wiring say what they are worth: a file of a few bytes could ask for any number."""


@dataclass(frozen=True)
class Signal:
    """What a node of the body gives.

    Attributes:
        value: what one unit of it is worth in activation units, float64 [C], or [1]; behind a flatten each for as many
            features as there are. `None`: not known, because something is wrong.
        channels: how many channels, or features behind a flatten; `None`: not known, because the size of images is not.
        magnitude: the largest magnitude of what it gives, or of what is summed: 1 for spikes, `None` for the analog
            input.
        constant: the same at every step, without a time axis.
        synapses: whose sums it is, if it is that.
    """

    value: Tensor | None
    channels: int | None
    magnitude: int | None = 1
    constant: bool = False
    synapses: Synapses | None = None


class BodyBuilder:
    """Makes the layers of a body, in order.

    Args:
        document: whose nodes stand in an order that a network can have.
        arrays: of the file.
        target: the chip.
        sizes: of what the nodes give; empty where that of images is not known.
        problem: is told what is wrong.
    """

    def __init__(
        self,
        document: Document,
        arrays: Arrays,
        target: HardwareTarget,
        sizes: Mapping[int, Size],
        problem: Problems,
    ) -> None:
        self._nodes: list[Mapping[str, Any]] = document["nodes"]
        self._dynamics = Dynamics(**document["dynamics"])
        self._arrays = arrays
        self._sizes = sizes
        self._problem = problem
        self._limits = Limits(target, problem)
        self._levels = document["version"] >= LEVELS_SINCE
        self._signals: dict[int, Signal] = {}
        self._wired = 0

    def layer(self, place: int) -> nn.Module:
        """The layer of the node at a place; those before it have been made."""
        node, before = self._nodes[place], len(self._problem.found)
        given = [self._signals[source] for source in reads(node)] if place > 1 else []
        layer, signal = self._made(node, given)
        if node["op"] == "flatten" and self._sizes:
            signal = replace(signal, channels=self._sizes[place][0])
            if any(place in reads(one) and one["op"] in WORDS for one in self._nodes):
                layer = FlattenMaps(prod(self._sizes[node["reads"]][1:]))
        self._signals[place] = signal if len(self._problem.found) == before else replace(signal, value=None)
        return layer

    def _made(self, node: Mapping[str, Any], given: list[Signal]) -> tuple[nn.Module, Signal]:
        op = node["op"]
        if op == "encode":
            return self._encode(node)
        if op == "spike_add":
            return self._add(node, given)
        if op in WORDS:
            return self._wiring(node, given)
        (read,) = given
        if op in ("spike_conv2d", "spike_linear"):
            return self._neurons(node, read)
        if op in ("synapse_conv2d", "synapse_linear"):
            return self._synapses(node, read)
        if op == "spike_avg_pool2d":
            return self._pooling(node, read)
        if op == "spike_any_pool2d":
            return self._any_pooling(node, read)
        return (nn.Flatten(), replace(read, channels=None)) if op == "flatten" else self._decode(node, read)

    def _encode(self, node: Mapping[str, Any]) -> tuple[nn.Module, Signal]:
        encode = Encode(float(node["unit"]), node["bits"], image_form_of(self._nodes), self._affine(node))
        encode.run_with(self._dynamics)
        value = torch.full((1,), encode.unit, dtype=torch.float64)
        return encode, Signal(value, node["channels"], encode.magnitude, constant=encode.form.frames is None)

    def _affine(self, node: Mapping[str, Any]) -> Affine | None:
        """What is done to images before they are rounded."""
        count = node.get("affine")
        if count is None:
            return None
        if count not in (1, node["channels"]):
            self._problem(f"{node['name']}: it scales {count} channels of {node['channels']}")
        arrays = (self._arrays(f"{node['name']}.{part}", (count,), (torch.float64,)) for part in ("scale", "shift"))
        return Affine(*arrays)

    def _decode(self, node: Mapping[str, Any], read: Signal) -> tuple[nn.Module, Signal]:
        name, before = node["name"], len(self._problem.found)
        shape = None if read.value is None else (read.channels or len(read.value),)
        value = self._arrays(f"{name}.spike_value", shape, FLOATS)
        if read.value is not None and len(self._problem.found) == before:
            expected = read.value.repeat_interleave(len(value) // len(read.value))
            if not _close(value.double(), expected, _CAST):
                self._problem(f"{name}: its spike value is not that of the last spiking layer")
        return Decode(value, value.dtype, self._dynamics), read

    def _pooling(self, node: Mapping[str, Any], read: Signal) -> tuple[nn.Module, Signal]:
        name = node["name"]
        top, bottom, left, right = node["padding"]
        value = self._value_of_pooled(node, read)
        if top != bottom or left != right:
            self._problem(f"{name}: its padding {node['padding']} differs between sides, which pooling cannot do")
        if any(2 * side > window for side, window in zip((top, left), node["kernel_size"], strict=True)):
            self._problem(f"{name}: its padding {node['padding']} is more than half of its window")
        pool = nn.AvgPool2d(tuple(node["kernel_size"]), tuple(node["stride"]), (top, left))
        return SpikeAvgPool2d.compiled(pool, value, self._dynamics), Signal(value, node["channels"])

    def _any_pooling(self, node: Mapping[str, Any], read: Signal) -> tuple[nn.Module, Signal]:
        """A pooling whose neurons spike with any of their window."""
        windows = Taps(**node["rows"]), Taps(**node["columns"])
        value = self._value_of_pooled(node, read)
        if any(2 * taps.padding > taps.kernel for taps in windows):
            self._problem(f"{node['name']}: its padding is more than half of its window")
        if windows[0].ceil != windows[1].ceil:
            self._problem(f"{node['name']}: its last windows count in one direction only")
        return SpikeAnyPool2d.compiled(AnyPool2d(*windows), value, self._dynamics), Signal(value, node["channels"])

    def _value_of_pooled(self, node: Mapping[str, Any], read: Signal) -> Tensor:
        """What spikes of a pooling are worth."""
        value = self._arrays(f"{node['name']}.spike_value", (node["channels"],), (torch.float64,))
        if read.value is not None and not torch.equal(read.value, value):
            self._problem(f"{node['name']}: its spikes are worth something else than those that it reads")
        return value

    def _neurons(self, node: Mapping[str, Any], read: Signal) -> tuple[nn.Module, Signal]:
        """A convolution or fully connected layer with neurons of its own."""
        name, bits, unit, gain = str(node["name"]), node["bits"], float(node["input_unit"]), node["gain"]
        layer: Any = geometry(node, self._problem)
        outputs, before = layer.weight.shape[0], len(self._problem.found)
        codebook = self._codebook(name, bits)
        codes = self._arrays.codes(f"{name}.codes", codebook, tuple(layer.weight.shape))
        theta, leak = self._numbers(name, ("threshold", "leak"), (outputs,), torch.int32)
        step, value, bias = self._numbers(name, ("step", "spike_value", "real_bias"), (outputs,), torch.float64)
        (threshold,) = self._numbers(name, ("real_threshold",), (1,), torch.float64)
        signal = Signal(value, outputs)
        if len(self._problem.found) > before:  # what stands in for a missing array is no layer
            return nn.Identity(), signal
        self._limits.require_registers(name, gain * codebook.largest, theta, leak)
        self._limits.require_fitting(node, layer, codebook)
        if not bool((step > 0).all()) or not _close(value, theta * step * unit / gain):
            self._problem(f"{name}: its spike value is not threshold * step * unit / gain")
        self._require_unit(name, unit, read)
        fill(
            layer,
            codes,
            codebook,
            IntegerNeuron(gain, theta, leak, value),
            step,
            self._dynamics,
            real_threshold=threshold,
            real_bias=bias,
            input_unit=unit,
            input_magnitude=read.magnitude,
            constant_input=read.constant,
        )
        return layer, signal

    def _synapses(self, node: Mapping[str, Any], read: Signal) -> tuple[nn.Module, Signal]:
        """A convolution or fully connected layer whose sums are added to others."""
        name, bits, unit = str(node["name"]), node["bits"], float(node["input_unit"])
        layer: Any = geometry(node, self._problem)
        outputs, before = layer.weight.shape[0], len(self._problem.found)
        signal = replace(read, value=None, channels=outputs)
        codebook = self._codebook(name, bits)
        codes = self._arrays.codes(f"{name}.codes", codebook, tuple(layer.weight.shape))
        (gain,) = self._numbers(name, ("gain",), (outputs,), torch.int32)
        (step,) = self._numbers(name, ("step",), (outputs,), torch.float64)
        if len(self._problem.found) > before:
            return nn.Identity(), signal
        self._limits.require_registers(name, int(gain.long().abs().max()) * codebook.largest)
        self._limits.require_fitting(node, layer, codebook)
        if not bool((step > 0).all()):
            self._problem(f"{name}: a step of it is not positive")
        self._require_unit(name, unit, read)
        if len(self._problem.found) > before:
            return nn.Identity(), signal
        layer.connect(
            codes,
            codebook,
            step,
            gain,
            self._dynamics,
            input_unit=unit,
            input_magnitude=read.magnitude,
            constant_input=read.constant,
        )
        return layer, replace(signal, synapses=layer)

    def _add(self, node: Mapping[str, Any], given: list[Signal]) -> tuple[nn.Module, Signal]:
        """Neurons that add up several inputs."""
        name, channels, before = str(node["name"]), node["channels"], len(self._problem.found)
        weights, real_weights = (
            self._arrays(f"{name}.{part}", (len(given), channels), (kind,))
            for part, kind in (("weights", torch.int32), ("real_weights", torch.float64))
        )
        theta, leak = self._numbers(name, ("threshold", "leak"), (channels,), torch.int32)
        grain, value, bias = self._numbers(name, ("step", "spike_value", "real_bias"), (channels,), torch.float64)
        (threshold,) = self._numbers(name, ("real_threshold",), (1,), torch.float64)
        signal = Signal(value, channels)
        for source, read in zip(reads(node), given, strict=True):
            if read.channels not in (None, channels):
                self._problem(
                    f"{name}: it has {channels} channels and is given {read.channels} by {self._name(source)}"
                )
        if len(self._problem.found) > before:
            return nn.Identity(), signal
        self._limits.require_registers(name, 0, theta, leak)
        if not bool((grain > 0).all()) or not _close(value, theta * grain):
            self._problem(f"{name}: its spike value is not threshold * step")
        largest = 0
        for number, (source, read) in enumerate(zip(reads(node), given, strict=True)):
            if self._nodes[source]["op"].startswith("synapse_"):
                if not bool((weights[number] == 1).all()):
                    self._problem(f"{name}: the weights of {self._name(source)}, which has a gain, are not 1")
                if read.synapses is None:  # something is wrong with it
                    continue
                gain, largest = read.synapses.gain, largest + read.synapses.largest_drive
            else:
                gain, low, high = weights[number], int(weights[number].min()), int(weights[number].max())
                self._limits.require_range(name, f"weight of {self._name(source)}", low, high, "codebook")
                largest += max(-low, high) * (read.magnitude or 0)
            if bool(((real_weights[number] / grain - gain).abs() > 0.5 * (1 + _RELATIVE)).any()):
                self._problem(f"{name}: what it adds of {self._name(source)} is not its real weight / step, rounded")
        add = SpikeAdd()
        add.join(
            JointNeuron(weights, theta, leak, value, grain),
            weights,
            self._dynamics,
            real_threshold=threshold,
            real_bias=bias,
            real_weights=real_weights,
            constant=tuple(read.constant for read in given),
            largest_sum=largest,
            analog=any(read.magnitude is None for read in given),
        )
        return add, signal

    def _wiring(self, node: Mapping[str, Any], given: list[Signal]) -> tuple[nn.Module, Signal]:
        name, word, before = node["name"], WORDS[node["op"]], len(self._problem.found)
        layer = word.made(node, lambda part, shape: self._arrays(f"{name}.{part}", shape, (torch.int64,)))
        channels = [read.channels for read in given if read.channels is not None]
        total = sum(channels) if len(channels) == len(given) else None
        if isinstance(layer, Channels):
            low, high = int(layer.index.min()), int(layer.index.max())
            if low < -1 or (total is not None and high >= total):
                self._problem(f"{name}: it takes the channels {low} to {high} of {total or 'those that it reads'}")
        signal = replace(given[0], channels=len(layer.index) if isinstance(layer, Channels) else total)
        if isinstance(layer, WithinChannels):
            return layer, signal
        values = [read.value for read in given if read.value is not None]
        if total is None or len(values) < len(given) or len(self._problem.found) > before:
            return layer, replace(signal, value=None)
        self._wired += total
        if self._wired > _MOST_WIRED:
            self._problem(f"{name}: it puts too many channels elsewhere")
            return layer, replace(signal, value=None)
        each = [one.repeat_interleave(count // len(one)) for one, count in zip(values, channels, strict=True)]
        value = layer.of_channels(each)
        return layer, replace(signal, value=value, channels=len(value))  # a pixel shuffle gives fewer, or more

    def _name(self, place: int) -> str:
        return str(self._nodes[place]["name"])

    def _numbers(self, name: str, parts: tuple[str, ...], shape: Size, dtype: torch.dtype) -> list[Tensor]:
        return [self._arrays(f"{name}.{part}", shape, (dtype,)) for part in parts]

    def _require_unit(self, name: str, unit: float, read: Signal) -> None:
        if read.value is not None and not _close(read.value.mean(), torch.tensor(unit, dtype=torch.float64)):
            self._problem(f"{name}: its input unit is {unit}; what it reads is worth {float(read.value.mean())}")

    def _codebook(self, name: str, bits: int) -> Codebook:
        """The codebook of a layer."""
        return self._arrays.codebook(f"{name}.levels", bits) if self._levels else Codebook.symmetric(bits)


class OutlineBuilder(BodyBuilder):
    """Makes spiking layers that have sizes and no numbers."""

    def _made(self, node: Mapping[str, Any], given: list[Signal]) -> tuple[nn.Module, Signal]:
        op = node["op"]
        if op == "spike_add":
            layer: nn.Module = SpikeAdd()
        elif op in ("spike_conv2d", "spike_linear", "synapse_conv2d", "synapse_linear"):
            layer = geometry(node, self._problem)
        else:
            return super()._made(node, given)
        self._arrays.pass_over(str(node["name"]))
        return layer, Signal(None, None)


def geometry(node: Mapping[str, Any], problem: Problems) -> SpikeConv2d | SpikeLinear | SynapseConv2d | SynapseLinear:
    """The layer with weights that a node describes, without tensors."""
    fires = node["op"].startswith("spike_")
    if node["op"] in ("spike_linear", "synapse_linear"):
        linear = SpikeLinear if fires else SynapseLinear
        return linear(node["in_features"], node["out_features"], bias=False, device="meta")
    conv = SpikeConv2d if fires else SynapseConv2d
    return conv(**convolution_arguments(node, problem), bias=False, device="meta")


def _close(left: Tensor, right: Tensor, relative: float = _RELATIVE) -> bool:
    return bool(((left - right).abs() <= relative * right.abs()).all())
