"""Random networks and random options of their conversion, for tests of what must hold of every network."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from random import Random
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxsnn
from fxsnn.chip import CODEBOOKS
from fxsnn.layers import norm_like, pair
from tests import reference
from tests.reference import Pair, Reset, Sides, even_sides

NORMS = ("none", "plain", "affine", "dead")
RESETS: tuple[Reset, ...] = ("subtraction", "zero")


def random_seeds(count: int, *, slow: int = 0) -> pytest.MarkDecorator:
    """The same networks at every run, and more of them where slow tests run; the seed is in the name of the test."""
    others = [pytest.param(seed, marks=pytest.mark.slow) for seed in range(count, count + slow)]
    return pytest.mark.parametrize("seed", [*range(count), *others])


# Networks as data ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PoolPlan:
    """An average pooling."""

    kernel: Pair
    stride: Pair
    padding: Pair


@dataclass(frozen=True)
class LayerPlan:
    """What a convolution and a hidden fully connected layer have in common.

    `norm` is "none", "plain" (no scale and shift), "affine", or "dead": affine, with a scale of zero in channel 0.
    """

    outputs: int
    bias: bool = True
    norm: str = "none"
    relu_module: bool = True


@dataclass(frozen=True)
class ConvPlan(LayerPlan):
    """A convolution, its ReLU, and the poolings behind it; `around` is padding by a layer of its own in front of it."""

    kernel: Pair = (3, 3)
    stride: Pair = (1, 1)
    padding: Pair | Literal["same"] = (1, 1)
    dilation: Pair = (1, 1)
    groups: int = 1
    pools: tuple[PoolPlan, ...] = ()
    around: Sides = ((0, 0), (0, 0))

    @property
    def sides(self) -> Sides:
        """The padding in numbers."""
        own = reference.same_sides(self.kernel, self.dilation) if self.padding == "same" else even_sides(self.padding)
        (top, bottom), (left, right) = (
            (before + more, behind + further)
            for (before, behind), (more, further) in zip(own, self.around, strict=True)
        )
        return (top, bottom), (left, right)


@dataclass(frozen=True)
class Options:
    """Options of a conversion."""

    target: str = "hw_v1.0"
    bits: int = 4
    timesteps: int = 16
    reset: Reset = "subtraction"
    initial_membrane: float = 0.5
    per_channel: bool = True
    input_bits: int = 8
    codebook: str = "symmetric"


@dataclass(frozen=True)
class NetworkPlan:
    """A network: shape of one image, layers, and the seed of all that is random in it."""

    image: tuple[int, int, int]
    convs: tuple[ConvPlan, ...]
    hidden: tuple[LayerPlan, ...] = ()
    classes: int = 4
    seed: int = 0
    dtype: torch.dtype = torch.float32


class Planned(nn.Module):
    """The PyTorch network of a plan, with random weights and random batch norms."""

    def __init__(self, plan: NetworkPlan) -> None:
        super().__init__()
        self.calls: list[str] = []
        self.geometry: dict[str, ConvPlan | PoolPlan | LayerPlan] = {}
        channels, height, width = plan.image
        for number, conv in enumerate(plan.convs):
            if any(map(any, conv.around)):
                (top, bottom), (left, right) = conv.around
                self.add_module(f"around{number}", nn.ZeroPad2d((left, right, top, bottom)))
                self.calls.append(f"around{number}")
            options: dict[str, Any] = {"dilation": conv.dilation, "groups": conv.groups, "bias": conv.bias}
            layer = nn.Conv2d(channels, conv.outputs, conv.kernel, conv.stride, conv.padding, **options)
            channels = conv.outputs
            norm = nn.BatchNorm2d(channels, affine=conv.norm in ("affine", "dead"))
            self._append(f"conv{number}", layer, norm, conv)
            height, width = sizes((height, width), conv.kernel, conv.stride, conv.sides, conv.dilation)
            for place, pool in enumerate(conv.pools):
                name = f"pool{number}_{place}"
                self.add_module(name, nn.AvgPool2d(pool.kernel, pool.stride, pool.padding))
                self.calls.append(name)
                self.geometry[name] = pool
                height, width = sizes((height, width), pool.kernel, pool.stride, even_sides(pool.padding))
        self.calls.append("flatten")
        features = channels * height * width
        for number, hidden in enumerate(plan.hidden):
            dense = nn.Linear(features, hidden.outputs, hidden.bias)
            features = hidden.outputs
            self._append(
                f"hidden{number}", dense, nn.BatchNorm1d(features, affine=hidden.norm in ("affine", "dead")), hidden
            )
        self.classifier = nn.Linear(features, plan.classes)
        randomise(self, plan.seed)
        for name, layer_plan in self.geometry.items():
            if isinstance(layer_plan, LayerPlan) and layer_plan.norm == "dead":
                dying = self.get_submodule(f"{name}_norm")
                assert isinstance(dying, nn.BatchNorm1d | nn.BatchNorm2d)
                nn.init.zeros_(dying.weight[:1])
        self.to(plan.dtype).eval()

    def _append(self, name: str, layer: nn.Module, norm: nn.Module, plan: LayerPlan) -> None:
        self.add_module(name, layer)
        self.calls.append(name)
        self.geometry[name] = plan
        if plan.norm != "none":
            self.add_module(f"{name}_norm", norm)
            self.calls.append(f"{name}_norm")
        if plan.relu_module:
            self.add_module(f"{name}_relu", nn.ReLU())
        self.calls.append(f"{name}_relu" if plan.relu_module else "relu")

    def forward(self, x: Tensor) -> Any:
        for call in self.calls:
            if call == "relu":
                x = F.relu(x)
            elif call == "flatten":
                x = torch.flatten(x, 1)
            else:
                x = self.get_submodule(call)(x)
        return self.classifier(x)


class Signals(Planned):
    """The same network with layers that read signals [N, C, L]; maps of its plan have one row."""

    def __init__(self, plan: NetworkPlan) -> None:
        super().__init__(plan)
        for name, layer in list(self.named_children()):
            if (made := _on_signals(layer)) is not None:
                self.add_module(name, made.eval())


def _on_signals(given: Any) -> nn.Module | None:
    if isinstance(given, nn.BatchNorm2d):
        return norm_like(nn.BatchNorm1d, given)
    if isinstance(given, nn.AvgPool2d):
        window, stride, padding = (pair(option)[1] for option in (given.kernel_size, given.stride, given.padding))
        return nn.AvgPool1d(window, stride, padding)
    if isinstance(given, nn.ZeroPad2d):
        return nn.ZeroPad1d(given.padding[:2])
    if not isinstance(given, nn.Conv2d):
        return None
    side = given.padding if isinstance(given.padding, str) else given.padding[1]
    conv = nn.Conv1d(
        given.in_channels, given.out_channels, given.kernel_size[1], given.stride[1], side, given.dilation[1],
        given.groups, given.bias is not None,
    )  # fmt: skip
    conv.weight, conv.bias = nn.Parameter(given.weight.detach().squeeze(2)), given.bias
    return conv


def randomise(model: nn.Module, seed: int) -> None:
    """Random weights and batch norms; scales of batch norms may be negative."""
    generator = torch.Generator().manual_seed(seed)
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            fan_in = layer.weight[0].numel()
            if isinstance(layer, nn.ConvTranspose2d):
                fan_in = layer.weight[:, 0].numel() // layer.groups
            deviation = (2 / fan_in) ** 0.5
            nn.init.normal_(layer.weight, 0, deviation, generator=generator)
            if layer.bias is not None:
                nn.init.normal_(layer.bias, 0, 0.3, generator=generator)
        elif isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            assert layer.running_mean is not None
            assert layer.running_var is not None
            layer.running_mean.normal_(0, 0.3, generator=generator)
            layer.running_var.uniform_(0.2, 2, generator=generator)
            if layer.affine:
                nn.init.normal_(layer.weight, 0.6, 0.5, generator=generator)
                nn.init.normal_(layer.bias, 0.1, 0.3, generator=generator)


def sizes(size: Pair, kernel: Pair, stride: Pair, padding: Sides, dilation: Pair = (1, 1)) -> Pair:
    """Height and width behind a convolution or a pooling; below 1 where the window does not fit."""
    height, width = (
        (size[axis] + sum(padding[axis]) - dilation[axis] * (kernel[axis] - 1) - 1) // stride[axis] + 1
        for axis in (0, 1)
    )
    return height, width


def noise(plan: NetworkPlan, count: int, seed: int) -> Tensor:
    """Images for a plan."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, *plan.image, generator=generator, dtype=torch.float32).to(plan.dtype)


# Random networks -----------------------------------------------------------------------------------------------------


def random_window(random: Random, kernel: Pair, size: Pair) -> tuple[Pair, Pair | Literal["same"], Pair]:
    """Stride, padding and dilation with which a window fits the map, each axis by itself."""
    if random.random() < 0.2:
        return (1, 1), "same", (random.choice((1, 2)), random.choice((1, 2)))
    (stride0, padding0, dilation0), (stride1, padding1, dilation1) = (
        random.choice(
            [
                (stride, padding, dilation)
                for stride, padding, dilation in itertools.product((1, 1, 2, 3, 5), (0, 1, 2, 3), (1, 2))
                if size[axis] + 2 * padding >= dilation * (kernel[axis] - 1) + 1
            ]
        )
        for axis in (0, 1)
    )
    return (stride0, stride1), (padding0, padding1), (dilation0, dilation1)


def random_pool(random: Random, size: Pair) -> PoolPlan | None:
    """A pooling, overlapping or not, of one place, a row, a column or the whole map, too; in half of the cases none."""
    if random.random() < 0.5:
        return None
    kernel0, kernel1 = (random.choice((1, random.randint(1, min(side, 4)), side)) for side in size)
    (stride0, padding0), (stride1, padding1) = (
        (random.randint(1, 4), random.randint(0, kernel // 2)) for kernel in (kernel0, kernel1)
    )
    return PoolPlan((kernel0, kernel1), (stride0, stride1), (padding0, padding1))


def random_conv(random: Random, target: str, channels: int, size: Pair) -> tuple[ConvPlan, Pair]:
    """A convolution that the target takes at any bit width, and the size of the map behind it and its poolings."""
    groups = random.choice([number for number in (1, 1, 2, channels) if channels % number == 0])
    side = random.choice((3, 5)) if channels // groups <= 10 else 3
    kernel = (random.randint(1, 5), random.randint(1, 5)) if target == "generic" else (side, side)
    window = random_window(random, kernel, size)
    outputs = random.randint(1, 4 if random.random() < 0.8 else 12) * groups
    common = (min(outputs, 24), random.random() < 0.5, random.choice(NORMS), random.random() < 0.5)
    conv = ConvPlan(*common, kernel, *window, groups if min(outputs, 24) % groups == 0 else 1)
    size = sizes(size, kernel, conv.stride, conv.sides, conv.dilation)
    pools: list[PoolPlan] = []
    while len(pools) < 2 and (pool := random_pool(random, size)) is not None:
        pools.append(pool)
        size = sizes(size, pool.kernel, pool.stride, even_sides(pool.padding))
    return replace(conv, pools=tuple(pools)), size


def random_plan(random: Random, target: str) -> NetworkPlan:
    """A network with 1 to 4 convolutions and up to 2 hidden layers; maps may have one row or column."""
    height, width = (random.choice((1, random.randint(2, 10), random.randint(5, 10))) for _ in range(2))
    image = (random.randint(1, 3), height, width)
    channels, size = image[0], image[1:]
    convs: list[ConvPlan] = []
    for _ in range(random.randint(1, 4)):
        conv, size = random_conv(random, target, channels, size)
        channels = conv.outputs
        convs.append(conv)
    hidden = tuple(
        LayerPlan(random.randint(1, 9), random.random() < 0.5, random.choice(NORMS), random.random() < 0.5)
        for _ in range(random.randint(0, 2))
    )
    return NetworkPlan(image, tuple(convs), hidden, random.randint(2, 5), random.randrange(1 << 32))


def with_padding(random: Random, plan: NetworkPlan) -> NetworkPlan:
    """The network with layers that pad in front of some convolutions, each side by itself; its maps are larger."""
    rows = 0 if all(conv.kernel[0] == 1 for conv in plan.convs) else 2
    convs = [
        replace(
            conv,
            around=((random.randint(0, rows), random.randint(0, rows)), (random.randint(0, 2), random.randint(0, 2))),
        )
        for conv in plan.convs
    ]
    return replace(plan, convs=tuple(convs))


def random_signal_plan(random: Random) -> NetworkPlan:
    """A network on signals, as the network on maps of one row that it equals."""
    plan = random_plan(random, "generic")
    length = random.randint(4, 40)
    convs, size = list[ConvPlan](), (1, length)
    for conv in plan.convs:
        kernel = (1, random.randint(1, 7))
        (_, stride), padding, (_, dilation) = random_window(random, kernel, size)
        there = padding if padding == "same" else (0, padding[1])
        flat = replace(conv, kernel=kernel, stride=(1, stride), padding=there, dilation=(1, dilation), pools=())
        size = sizes(size, kernel, flat.stride, flat.sides, flat.dilation)
        pool = random_pool(random, size)
        if pool is not None:
            pool = PoolPlan((1, pool.kernel[1]), (1, pool.stride[1]), (0, pool.padding[1]))
            size = sizes(size, pool.kernel, pool.stride, even_sides(pool.padding))
        convs.append(replace(flat, pools=() if pool is None else (pool,)))
    return replace(plan, image=(plan.image[0], 1, length), convs=tuple(convs))


def random_case(seed: object, *, signals: bool = False, padded: bool = False) -> tuple[NetworkPlan, Options]:
    """A network and options for its conversion; shown where a test fails."""
    random = Random(str(seed))
    options = Options(
        target=random.choice(("hw_v1.0", "generic")),
        bits=random.randint(1, 4),
        timesteps=random.randint(1, 64),
        reset=random.choice(RESETS),
        initial_membrane=random.choice((0.5, 0.0)),
        per_channel=random.random() < 0.5,
        input_bits=random.choice((8, 8, random.randint(2, 16))),
        codebook=random.choice(CODEBOOKS),
    )
    if signals:  # whose kernels are those of no chip
        options = replace(options, target="generic")
    plan = random_signal_plan(random) if signals else random_plan(random, options.target)
    plan = with_padding(random, plan) if padded else plan
    print(f"seed {seed}: {plan}\n{options}")
    return plan, options


# Their conversion ----------------------------------------------------------------------------------------------------


@contextmanager
def quiet() -> Iterator[None]:
    """Without the library's warnings: random networks deserve all of them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fxsnn.FxsnnWarning)
        yield


def arguments(images: Tensor, options: Options) -> dict[str, Any]:
    """Arguments of `convert` and `pipeline`."""
    return {"calibration_data": images, "example": images[:1], "average_pool": "plain", **vars(options)}


def converted(model: nn.Module, images: Tensor, options: Options, **more: Any) -> fxsnn.SpikingNetwork:
    """The library's side; biases are those of the network, unless it is trained."""
    correction = "auto" if more.get("finetune") else None
    with quiet():
        return fxsnn.convert(model, **{"correction": correction, **arguments(images, options), **more})


@dataclass(frozen=True, eq=False)
class Case:
    """A random network with what was made of it."""

    plan: NetworkPlan
    options: Options
    model: Planned
    snn: fxsnn.SpikingNetwork


def convertible_case(seed: int, *, finetuned: bool = False, signals: bool = False, padded: bool = False) -> Case:
    """The first random network of a seed whose values fit the registers of its target; on images or on signals.

    `padded`: with layers that pad in front of its convolutions.
    """
    for attempt in itertools.count():
        plan, options = random_case(f"{seed}.{attempt}", signals=signals, padded=padded)
        model, images = Planned(plan), noise(plan, 8, seed=1)
        if signals:
            model, images = Signals(plan), images.squeeze(2)
        tuning = fxsnn.Finetune((images, torch.arange(8) % plan.classes), epochs=1, lr=0.1) if finetuned else None
        try:
            return Case(plan, options, model, converted(model, images, options, finetune=tuning))
        except (fxsnn.TargetError, fxsnn.TrainingError):
            continue
    raise AssertionError
