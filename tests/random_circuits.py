"""Random spiking graphs with branches, as data that no conversion made: integers, geometry and wiring of all kinds."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import Node

from fxsnn.graph import Graph
from fxsnn.layers import (
    AnyPool2d,
    Channels,
    Concat,
    Decode,
    Encode,
    ImageForm,
    Places,
    Repeat,
    Select,
    SpikeAdd,
    SpikeAnyPool2d,
    SpikeAvgPool2d,
    SpikeConv2d,
    SpikeLinear,
    SynapseConv2d,
    SynapseLinear,
    Taps,
    Wiring,
    fill,
)
from fxsnn.numerics import Codebook, Dynamics, IntegerNeuron, JointNeuron
from tests.codebooks import random_codebook, random_codes

Shape = tuple[int, ...]


class Flip(Wiring):
    """Columns, or rows, in the other order."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, x: Tensor) -> Tensor:
        return x.flip(self.axis)


class Transpose(Wiring):
    """Rows and columns change places."""

    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(2, 3)


class Padded(Wiring):
    """Zeros around maps, and channels of zeros behind."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.pad(x, (1, 0, 2, 1, 0, 1))


class Spread(Wiring):
    """Pixel shuffle: four channels become four places, and a channel that is left over is lost."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.pixel_shuffle(x[:, : x.shape[1] // 4 * 4], 2)


@dataclass(frozen=True)
class Value:
    """What a call gives: features have a shape of one number."""

    node: Node
    shape: Shape


class RandomCircuit:
    """A spiking graph, other ones for other seeds.

    Args:
        seed: of all that is random.
        analog: images are not rounded.
        frames: images change over time.
    """

    def __init__(self, seed: int, *, analog: bool = False, frames: bool = False) -> None:
        self.random = Random(seed)
        self.torch = torch.Generator().manual_seed(seed)
        self.image: Shape = (self.random.choice([1, 3, 5]), self.random.randint(4, 13), self.random.randint(4, 13))
        self.dynamics = Dynamics(
            self.random.choice([1, 3, 15, 16, 17, 33, 40]),
            self.random.choice(["subtraction", "zero"]),
            self.random.choice([0.5, 0.0]),
        )
        self.bits, self.frames = None if analog else 8, frames
        self.root, self.program = nn.Module(), fx.Graph()
        self.kinds: list[str] = []
        images = self.program.placeholder("images")
        form = ImageForm(self.image[0], 4, frames=self.dynamics.timesteps if frames else None)
        encode = Encode(1.0 if analog else 1 / 40, self.bits, form)
        self.images = self._call("encode", encode, [images], self.image)
        self.values = [self._convolution(self.images)]
        for _ in range(self.random.randint(2, 6)):
            kind = self.random.choice(["convolution", "depthwise", "pool", "sum", "sum", "sum", "wiring", "wiring"])
            self.values.append(getattr(self, f"_{kind}")(self.random.choice(self.values[-3:])))
        self._end()
        self.program.lint()
        self.graph = Graph(fx.GraphModule(self.root, self.program), self.image)

    @property
    def magnitude(self) -> int | None:
        """The largest magnitude of the images that are rounded."""
        return None if self.bits is None else 1 << (self.bits - 1)

    def given(self, count: int) -> Tensor:
        """Random images, with a frame for each step where they change."""
        times = (self.dynamics.timesteps,) if self.frames else ()
        return torch.randn(count, *times, *self.image, generator=self.torch)

    # Calls -----------------------------------------------------------------------------------------------------------

    def _call(self, kind: str, module: nn.Module, given: list[Node], shape: Shape) -> Value:
        name = f"{kind}{len(self.kinds)}"
        self.kinds.append(kind)
        self.root.add_module(name, module.eval())
        return Value(self.program.call_module(name, tuple(given)), shape)

    def _numbers(self, low: int, high: int, count: int) -> Tensor:
        return torch.randint(low, high + 1, (count,), generator=self.torch, dtype=torch.int32)

    def _neuron(self, channels: int, expected: float, gain: int) -> IntegerNeuron:
        """One for drives of that magnitude: it spikes now and then."""
        threshold = self._numbers(1, max(2, int(2 * expected)), channels)
        leak = self._numbers(-int(expected / 3) - 1, int(expected / 2) + 1, channels)
        return IntegerNeuron(gain, threshold, leak, torch.ones(channels, dtype=torch.float64))

    def _codes(self, *shape: int) -> tuple[Tensor, Codebook]:
        codebook = random_codebook(self.random, self.random.randint(1, 4))
        return random_codes(codebook, shape, self.torch), codebook

    def _geometry(self, channels: int, outputs: int) -> dict[str, Any]:
        groups = self.random.choice([one for one in range(1, channels + 1) if channels % one == outputs % one == 0])
        return {
            "kernel_size": (self.random.randint(1, 3), self.random.randint(1, 3)),
            "stride": self.random.choice([1, 1, 2, (1, 2), (3, 1)]),
            "padding": self.random.choice([0, 1, (2, 1)]),
            "dilation": self.random.choice([1, 1, 2]),
            "groups": groups,
        }

    def _shaped(self, source: Value, layer: Any) -> Shape | None:
        """What a convolution or a pooling makes of it; `None` if that is nothing."""
        channels, height, width = source.shape
        try:
            plain = (nn.AvgPool2d if isinstance(layer, nn.AvgPool2d) else nn.Conv2d)(**self._options(layer))
            return tuple(plain.to("meta")(torch.empty(1, channels, height, width, device="meta")).shape[1:])
        except RuntimeError:
            return None

    @staticmethod
    def _options(layer: Any) -> dict[str, Any]:
        names = ["kernel_size", "stride", "padding"]
        if isinstance(layer, nn.Conv2d):
            names += ["in_channels", "out_channels", "dilation", "groups"]
        return {name: getattr(layer, name) for name in names}

    def _convolution(self, source: Value, *, depthwise: bool = False) -> Value:
        if len(source.shape) == 1:
            return self._linear(source)
        channels = source.shape[0]
        while True:
            outputs = channels * self.random.randint(1, 2) if depthwise else self.random.randint(1, 9)
            options = self._geometry(channels, outputs)
            layer = SpikeConv2d(channels, outputs, **{**options, **({"groups": channels} if depthwise else {})})
            if (shape := self._shaped(source, layer)) is not None and min(shape) > 0:
                break
        return self._filled(source, layer, shape)

    def _depthwise(self, source: Value) -> Value:
        return self._convolution(source, depthwise=True)

    def _linear(self, source: Value) -> Value:
        (flat,) = [source] if len(source.shape) == 1 else [self._flat(source)]
        outputs = self.random.randint(2, 9)
        return self._filled(flat, SpikeLinear(flat.shape[0], outputs), (outputs,))

    def _filled(self, source: Value, layer: SpikeConv2d | SpikeLinear, shape: Shape) -> Value:
        codes, codebook = self._codes(*layer.weight.shape)
        of_images = source is self.images
        gain = self.random.choice([1, 3, 50])
        expected = gain * 2.0 * float(codes[0].numel()) ** 0.5 * (10 if of_images else 1)
        fill(
            layer, codes, codebook, self._neuron(shape[0], expected, gain), torch.ones(shape[0]), self.dynamics,
            real_threshold=torch.ones(1), real_bias=torch.zeros(shape[0]), input_unit=1.0,
            input_magnitude=self.magnitude if of_images else 1, constant_input=of_images and not self.frames,
        )  # fmt: skip
        return self._call("conv" if isinstance(layer, SpikeConv2d) else "linear", layer, [source.node], shape)

    def _flat(self, source: Value) -> Value:
        return self._call("flatten", nn.Flatten(), [source.node], (int(torch.Size(source.shape).numel()),))

    def _pool(self, source: Value) -> Value:
        if len(source.shape) == 1:
            return self._linear(source)
        for _ in range(20):
            size = (self.random.randint(1, 3), self.random.randint(1, 3))
            plain = nn.AvgPool2d(size, self.random.choice([None, 1, 2]), (size[0] // 2, 0))
            if (shape := self._shaped(source, plain)) is not None and min(shape) > 0:
                ones = torch.ones(source.shape[0], dtype=torch.float64)
                if self.random.random() < 0.5:
                    return self._any_pool(source, ones)
                pool = SpikeAvgPool2d.compiled(plain, ones, self.dynamics)
                return self._call("pool", pool, [source.node], shape)
        return self._convolution(source)

    def _any_pool(self, source: Value, value: Tensor) -> Value:
        """Windows of one to three, dilated or not, with a last one that reaches beyond the padding or without."""
        ceil = self.random.random() < 0.5
        while True:
            rows, columns = (self._taps(ceil) for _ in range(2))
            pool = SpikeAnyPool2d.compiled(AnyPool2d(rows, columns), value, self.dynamics)
            shape = (source.shape[0], rows.windows(source.shape[1]), columns.windows(source.shape[2]))
            if min(shape) > 0:
                return self._call("any_pool", pool, [source.node], shape)

    def _taps(self, ceil: bool) -> Taps:
        kernel = self.random.randint(1, 3)
        stride, dilation = self.random.choice([1, 1, 2, 3]), self.random.choice([1, 1, 2])
        return Taps(kernel, stride, self.random.randint(0, kernel // 2), dilation, ceil)

    # Sums ------------------------------------------------------------------------------------------------------------

    def _sum(self, source: Value) -> Value:
        """A sum of the shape of `source`, of two to four inputs, sometimes images among them."""
        same = [one for one in self.values if one.shape == source.shape]
        branches: list[tuple[Value, bool]] = []
        for _ in range(self.random.randint(2, 4)):
            if self.random.random() < 0.5:
                branches.append((self.random.choice(same), False))
            else:
                branches.append((self._synapses(source.shape), True))
        if self.magnitude is not None and source.shape == self.image and self.random.random() < 0.3:
            branches.append((self.images, False))
        return self._joined(branches, source.shape)

    def _synapses(self, shape: Shape) -> Value:
        """Sums of that shape, of whatever there is that a convolution brings to it."""
        layer: SynapseConv2d | SynapseLinear
        for _ in range(60):
            images = self.magnitude is not None and self.random.random() < 0.15
            source = self.images if images else self.random.choice(self.values)
            if len(shape) == 1:
                source = source if len(source.shape) == 1 else self._flat(source)
                return self._connected(source, SynapseLinear(source.shape[0], shape[0]), shape)
            if len(source.shape) == 1:
                continue
            options = self._geometry(source.shape[0], shape[0])
            layer = SynapseConv2d(source.shape[0], shape[0], **options)
            if self._shaped(source, layer) == shape:
                return self._connected(source, layer, shape)
        source = self.random.choice([one for one in self.values if one.shape[1:] == shape[1:]])
        return self._connected(source, SynapseConv2d(source.shape[0], shape[0], 3, padding=1), shape)

    def _connected(self, source: Value, layer: SynapseConv2d | SynapseLinear, shape: Shape) -> Value:
        codes, codebook = self._codes(*layer.weight.shape)
        of_images = self._of_images(source.node)
        magnitude = self.magnitude if of_images else 1
        gain = self._numbers(1, 40, shape[0]) * self.random.choice([1, 1, -1])
        layer.connect(
            codes, codebook, torch.ones(shape[0]), gain, self.dynamics,
            input_unit=1.0, input_magnitude=magnitude, constant_input=of_images and not self.frames,
        )  # fmt: skip
        return self._call("synapses", layer, [source.node], shape)

    def _of_images(self, node: Node) -> bool:
        """Whether it is the images, or made of nothing else without neurons."""
        if node is self.images.node:
            return True
        module = self.root.get_submodule(str(node.target))
        without_neurons = isinstance(module, nn.Flatten | SynapseConv2d | SynapseLinear | Wiring)
        return without_neurons and all(map(self._of_images, node.all_input_nodes))

    def _joined(self, branches: list[tuple[Value, bool]], shape: Shape) -> Value:
        weights = torch.stack([
            torch.ones(shape[0], dtype=torch.int32) if synapses
            else self._numbers(1, 60, shape[0]) * self.random.choice([1, 1, -1])
            for _, synapses in branches
        ])  # fmt: skip
        of_images = tuple(self._of_images(one.node) for one, _ in branches)
        largest = 0
        for (value, synapses), own, steady in zip(branches, weights, of_images, strict=True):
            module: Any = self.root.get_submodule(str(value.node.target))
            one = (self.magnitude or 0) if steady else 1
            largest += module.largest_drive if synapses else int(own.abs().max()) * one
        integer = self._neuron(shape[0], 80.0, 1)
        ones = torch.ones(shape[0], dtype=torch.float64)
        add = SpikeAdd()
        add.join(
            JointNeuron(weights, integer.threshold, integer.leak, ones, ones), weights, self.dynamics,
            real_threshold=torch.ones(1), real_bias=ones, real_weights=weights.double(),
            constant=tuple(one and not self.frames for one in of_images),
            largest_sum=largest, analog=False,
        )  # fmt: skip
        return self._call("add", add, [one.node for one, _ in branches], shape)

    # Wiring ----------------------------------------------------------------------------------------------------------

    def _wiring(self, source: Value) -> Value:
        if len(source.shape) == 1:
            return self._concat(source)
        channels, height, width = source.shape
        kind = self.random.choice(
            ["channels", "places", "select", "repeat", "concat", "flip", "transpose", "padded", "spread"]
        )
        if kind == "concat":
            return self._concat(source)
        if kind == "channels" or (kind == "spread" and channels < 4) or (kind == "repeat" and height * width > 200):
            index = torch.randint(channels, (self.random.randint(1, channels + 2),), generator=self.torch)
            return self._call(kind, Channels(index), [source.node], (len(index), height, width))
        if kind == "places":
            module: Wiring = Places((self.random.randint(0, 1), 2), (self.random.randint(0, 1), 1))
        elif kind == "select":
            module = Select(*([self.random.randrange(-1, side) for _ in range(side)] for side in (height, width)))
        elif kind == "repeat":
            module = Repeat(self.random.randint(1, 2), self.random.randint(1, 3))
        elif kind == "flip":
            module = Flip(self.random.choice([1, 2, 3]))
        else:
            module = {"transpose": Transpose, "padded": Padded, "spread": Spread}[kind]()
        shape = tuple(module(torch.zeros(1, *source.shape)).shape[1:])
        return self._call(kind, module, [source.node], shape) if min(shape) else self._concat(source)

    def _concat(self, source: Value) -> Value:
        fitting = [one for one in self.values if one.shape[1:] == source.shape[1:]]
        chosen = [source, *self.random.choices(fitting, k=self.random.randint(1, 2))]
        channels = sum(one.shape[0] for one in chosen)
        return self._call("concat", Concat(), [one.node for one in chosen], (channels, *source.shape[1:]))

    # The end ---------------------------------------------------------------------------------------------------------

    def _end(self) -> None:
        """Read all that nothing has read, and decode."""
        unread = [one for one in self.values if not one.node.users]
        how = self.random.choice(["linear", "sum", "concat", "plain"])
        if len(unread) > 1 or how != "plain":
            flat = [one if len(one.shape) == 1 else self._flat(one) for one in unread]
            joined = flat[0]
            if how == "sum":
                branches = [self._connected(one, SynapseLinear(one.shape[0], 5), (5,)) for one in flat]
                joined = self._joined([(one, True) for one in branches], (5,))
            elif len(flat) > 1:
                features = sum(one.shape[0] for one in flat)
                joined = self._call("concat", Concat(), [one.node for one in flat], (features,))
            unread = [self._linear(joined) if how == "linear" else joined]
        (last,) = unread
        decode = Decode(torch.ones(last.shape[0], dtype=torch.float64), torch.float32, self.dynamics)
        self.program.output(self._call("decode", decode, [last.node], last.shape).node)
