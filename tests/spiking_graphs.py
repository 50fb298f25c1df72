"""Spiking networks put together by hand, of integers that fit together: graphs that branch, join and are wired.

make = SpikingGraph(seed=0)
a = make.conv(make.images, 4)
b = make.add(make.synapses(a, 4), a)
snn = make.network(make.wire(Concat(), a, b))
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

import fxsnn
from fxsnn.graph import Graph
from fxsnn.layers import (
    Channels,
    Concat,
    Decode,
    Encode,
    ImageForm,
    PixelShuffle,
    Places,
    Repeat,
    Select,
    SpikeAdd,
    SpikeAvgPool2d,
    SpikeConv2d,
    SpikeLinear,
    SynapseConv2d,
    SynapseLinear,
    Synapses,
    Wiring,
    fill,
)
from fxsnn.numerics import Codebook, Dynamics, IntegerNeuron, JointNeuron
from tests.codebooks import random_codebook, random_codes


@dataclass(frozen=True)
class Made:
    """A node of a body.

    Attributes:
        node: of the program.
        example: what it gives for two images.
        value: what one unit of it is worth, for each channel.
        magnitude: the largest magnitude of what it gives, or sums.
        constant: the same at every step.
        synapses: whose sums it is.
    """

    node: fx.Node
    example: Tensor
    value: Tensor
    magnitude: int | None = 1
    constant: bool = False
    synapses: Synapses | None = None

    @property
    def channels(self) -> int:
        """Or features."""
        return self.example.shape[1]


class SpikingGraph:
    """Grows node by node; what a layer is given of numbers is random.

    Args:
        seed: of all numbers.
        size: of an image.
        input_bits: `None` for an analog input.
        free: layers have levels of any kind; else symmetric ones.
        dynamics: of the neurons.

    Attributes:
        images: what the first layers read.
    """

    def __init__(
        self,
        seed: int,
        size: tuple[int, ...] = (3, 8, 8),
        input_bits: int | None = 8,
        *,
        free: bool = False,
        **dynamics: Any,
    ) -> None:
        self.size = size
        self._free, self._chosen = free, random.Random(seed)
        self._numbers = torch.Generator().manual_seed(seed)
        self._dynamics = Dynamics(**{"timesteps": 5, **dynamics})
        self._root, self._program = nn.Module(), fx.Graph()
        placeholder = self._program.placeholder("x")
        unit = 1.0 if input_bits is None else 0.03
        encode = Encode(unit, input_bits, ImageForm(size[0], len(size) + 1))
        self.images = self._placed(
            encode, (placeholder,), encode(torch.randn(2, *size, generator=self._numbers)), "encode"
        )
        value = torch.full((size[0],), unit, dtype=torch.float64)
        self.images = replace(self.images, value=value, magnitude=encode.magnitude, constant=True)

    def conv(self, read: Made, outputs: int, kernel: int = 3, bits: int = 4, **geometry: Any) -> Made:
        """A convolution with neurons."""
        return self._neurons(SpikeConv2d(read.channels, outputs, kernel, bias=False, **geometry), read, bits)

    def linear(self, read: Made, outputs: int, bits: int = 4) -> Made:
        """A fully connected layer with neurons."""
        return self._neurons(SpikeLinear(read.channels, outputs, bias=False), read, bits)

    def synapses(self, read: Made, outputs: int, kernel: int = 3, bits: int = 4, **geometry: Any) -> Made:
        """Weights whose sums go to a sum: a convolution, behind a flatten a fully connected layer."""
        layer: Any
        if read.example.dim() == 2:
            layer = SynapseLinear(read.channels, outputs, bias=False)
        else:
            layer = SynapseConv2d(read.channels, outputs, kernel, bias=False, **geometry)
        layer.connect(
            *self._codes(layer, bits), self._real(outputs), self._whole(-60, 60, outputs).int(), self._dynamics,
            input_unit=float(read.value.mean()), input_magnitude=read.magnitude, constant_input=read.constant,
        )  # fmt: skip
        made = self._placed(layer, (read.node,), layer(read.example), "synapses")
        return replace(made, magnitude=read.magnitude, constant=read.constant, synapses=layer)

    def add(self, *reads: Made) -> Made:
        """Neurons that add up several inputs."""
        channels = reads[0].channels
        weights = torch.stack([self._whole(-60, 60, channels).int() for _ in reads])
        gains, largest = weights.clone(), 0
        for number, read in enumerate(reads):
            if read.synapses is None:
                largest += int(weights[number].abs().max()) * (read.magnitude or 0)
            else:
                weights[number], gains[number] = 1, read.synapses.gain
                largest += read.synapses.largest_drive
        grain, real = self._real(channels), torch.ones(1, dtype=torch.float64)
        rounding = 0.8 * torch.rand(gains.shape, generator=self._numbers, dtype=torch.float64) - 0.4
        leak, layer = self._whole(-10, 30, channels).int(), SpikeAdd()

        def join(theta: Tensor) -> None:
            layer.join(
                JointNeuron(gains, theta, leak, theta * grain, grain), weights, self._dynamics, real_threshold=real,
                real_bias=leak * grain, real_weights=(gains + rounding) * grain,
                constant=tuple(read.constant for read in reads), largest_sum=largest,
                analog=any(read.magnitude is None for read in reads),
            )  # fmt: skip

        join(torch.ones(channels, dtype=torch.int32))
        join(_threshold(layer.drive(*(one.example for one in reads))))
        made = self._placed(layer, tuple(read.node for read in reads), layer(*(one.example for one in reads)), "add")
        return replace(made, value=layer.spike_value)

    def pool(self, read: Made, window: int = 2) -> Made:
        """Average pooling with neurons."""
        layer = SpikeAvgPool2d.compiled(nn.AvgPool2d(window), read.value, self._dynamics)
        return replace(self._placed(layer, (read.node,), layer(read.example), "pool"), value=read.value)

    def flatten(self, read: Made) -> Made:
        """All features in a row."""
        made = self._placed(nn.Flatten(), (read.node,), read.example.flatten(1), "flatten")
        value = read.value.repeat_interleave(made.channels // read.channels)
        return replace(read, node=made.node, example=made.example, value=value)

    def wire(self, layer: Wiring, *reads: Made) -> Made:
        """Wiring of any kind."""
        made = self._placed(layer, tuple(read.node for read in reads), layer(*(one.example for one in reads)), "wire")
        value = reads[0].value
        if isinstance(layer, Concat | Channels | PixelShuffle):
            value = layer.of_channels([read.value for read in reads])
        return replace(reads[0], node=made.node, example=made.example, value=value)

    def network(self, last: Made, **options: Any) -> fxsnn.SpikingNetwork:
        """What the body gives is averaged, and read by a fully connected layer."""
        node = self._placed(
            Decode(last.value, torch.float32, self._dynamics), (last.node,), last.example, "decode"
        ).node
        if last.example.dim() == 4:
            for name, layer in (("mean", nn.AdaptiveAvgPool2d((1, 1))), ("flat", nn.Flatten())):
                node = self._placed(layer, (node,), last.example, name).node
        fc = nn.Linear(last.channels, 4)
        with torch.no_grad():
            fc.weight.copy_(torch.randn(fc.weight.shape, generator=self._numbers))
            assert fc.bias is not None
            fc.bias.zero_()
        self._program.output(self._placed(fc, (node,), last.example, "fc").node)
        graph = Graph(fx.GraphModule(self._root, self._program))
        given = {"engine": "torch", "image_size": self.size, **options}
        return fxsnn.SpikingNetwork(graph, "generic", **given)

    def _neurons(self, layer: Any, read: Made, bits: int) -> Made:
        outputs, unit, gain = len(layer.weight), float(read.value.mean()), 9
        step, real = self._real(outputs), torch.ones(1, dtype=torch.float64)
        leak, (codes, codebook) = self._whole(-10, 30, outputs).int(), self._codes(layer, bits)

        def fill_with(theta: Tensor) -> None:
            neuron = IntegerNeuron(gain, theta, leak, theta * step * unit / gain)
            fill(
                layer, codes, codebook, neuron, step, self._dynamics, real_threshold=real, real_bias=leak * step,
                input_unit=unit, input_magnitude=read.magnitude, constant_input=read.constant,
            )  # fmt: skip

        fill_with(torch.ones(outputs, dtype=torch.int32))
        fill_with(_threshold(layer.drive(read.example)))
        made = self._placed(layer, (read.node,), layer(read.example), "layer")
        return replace(made, value=layer.spike_value)

    def _placed(self, layer: nn.Module, reads: tuple[fx.Node, ...], example: Tensor, name: str) -> Made:
        name = f"{name}{len(self._program.nodes)}"
        self._root.add_module(name, layer.eval())
        return Made(self._program.call_module(name, reads), example, torch.ones(1, dtype=torch.float64))

    def _codes(self, layer: Any, bits: int) -> tuple[Tensor, Codebook]:
        codebook = random_codebook(self._chosen, bits) if self._free else Codebook.symmetric(bits)
        return random_codes(codebook, tuple(layer.weight.shape), self._numbers), codebook

    def _whole(self, low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high + 1, shape, generator=self._numbers)

    def _real(self, count: int) -> Tensor:
        return 0.01 + 0.04 * torch.rand(count, generator=self._numbers, dtype=torch.float64)


def _threshold(drive: Tensor) -> Tensor:
    """Of each channel one at which neurons spike now and then."""
    rest = [dim for dim in range(drive.dim()) if dim != 1]
    return (2 * drive.double().abs().mean(rest)).round().clamp(1, 100_000).int()


def random_graph(seed: int, *, wired: bool = True, **options: Any) -> fxsnn.SpikingNetwork:
    """A network of a few layers, sums and wiring, each of which reads something that is there already.

    Args:
        seed: of all that is chosen.
        wired: whether there is wiring.
        options: of `SpikingGraph`, which are not chosen.
    """
    chosen = random.Random(seed)
    given = {
        "input_bits": chosen.choice([8, 8, None]),
        "timesteps": chosen.randint(1, 7),
        "reset": chosen.choice(["subtraction", "zero"]),
        "initial_membrane": chosen.choice([0, 0.5]),
        "free": chosen.random() < 0.5,
    }
    make = SpikingGraph(seed, **{**given, **options})
    bits = chosen.randint(1, 4)
    made = [make.conv(make.images, 4, padding=1, bits=bits)]
    for _ in range(chosen.randint(2, 6)):
        made.append(_grown(make, made, bits, wired, chosen))
    flat = [make.flatten(one) for one in made]  # a sum of all: nothing is left that nobody reads
    return make.network(make.add(*(make.synapses(one, 6) for one in flat)))


def _grown(make: SpikingGraph, made: list[Made], bits: int, wired: bool, chosen: random.Random) -> Made:
    """One more node, which reads the last one, and perhaps another one."""
    last = made[-1]
    channels, height, width = last.example.shape[1:]
    other = chosen.choice([one for one in made if one.example.shape[2:] == (height, width)])
    kinds = ["conv", "depthwise", "residual", "sum", *["pool"] * (min(height, width) > 3)]
    if wired:
        kinds += ["concat", "channels", *["places", "select"] * (min(height, width) > 3), *["repeat"] * (height < 9)]
    kind = chosen.choice(kinds)
    if kind in ("conv", "depthwise"):
        return make.conv(last, channels, padding=1, groups=channels if kind == "depthwise" else 1)
    if kind == "residual":
        plain = other if other.channels == channels else make.synapses(other, channels, 1)
        return make.add(make.synapses(last, channels, padding=1, bits=bits), plain)
    if kind == "sum":
        return make.add(last, make.wire(Channels(torch.arange(channels).flip(0)), last) if wired else last, last)
    if kind == "pool":
        return make.pool(last)
    layers = {
        "concat": Concat(),
        "channels": Channels(torch.arange(0, channels, 2)),
        "places": Places((1, 2), (0, 1)),
        "select": Select((-1, 1, *range(height)), (*range(width), width - 2)),
        "repeat": Repeat(2, 1),
    }
    return make.wire(layers[kind], *((other, last, other) if kind == "concat" else (last,)))
