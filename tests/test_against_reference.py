"""Random networks: the converted network against the contract's integers, computed independently."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import Phase, assume, given, note, settings
from hypothesis import strategies as st
from networks import ColourNet, DigitNet
from torch import Tensor, nn

import fxsnn
from fxsnn.layers import ClippedReLU, Encode, LowBit, QuantizedInput, Spiking
from tests import reference
from tests.engines import ENGINES
from tests.nets import seeded
from tests.reference import Integers, Pair, Reals, Reset

WIDTHS = {"hw_v1.0": reference.Widths(11, 18, 19), "generic": reference.Widths(11, 24, 24)}
FLOAT32_ROUNDING = 2.0**-24
INPUT_BITS = 8
NORMS = ("none", "plain", "affine", "dead")
RESETS: tuple[Reset, ...] = ("subtraction", "zero")
SEEDS = st.integers(0, (1 << 32) - 1)


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
    """A convolution, its ReLU, and the poolings behind it."""

    kernel: Pair = (3, 3)
    stride: Pair = (1, 1)
    padding: Pair = (1, 1)
    dilation: Pair = (1, 1)
    groups: int = 1
    pools: tuple[PoolPlan, ...] = ()


@dataclass(frozen=True)
class Options:
    """Options of a conversion."""

    target: str = "hw_v1.0"
    bits: int = 4
    timesteps: int = 16
    reset: Reset = "subtraction"
    initial_membrane: float = 0.5
    per_channel: bool = True


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
            options: dict[str, Any] = {"dilation": conv.dilation, "groups": conv.groups, "bias": conv.bias}
            layer = nn.Conv2d(channels, conv.outputs, conv.kernel, conv.stride, conv.padding, **options)
            channels = conv.outputs
            norm = nn.BatchNorm2d(channels, affine=conv.norm in ("affine", "dead"))
            self._append(f"conv{number}", layer, norm, conv)
            height, width = sizes((height, width), conv.kernel, conv.stride, conv.padding, conv.dilation)
            for place, pool in enumerate(conv.pools):
                name = f"pool{number}_{place}"
                self.add_module(name, nn.AvgPool2d(pool.kernel, pool.stride, pool.padding))
                self.calls.append(name)
                self.geometry[name] = pool
                height, width = sizes((height, width), pool.kernel, pool.stride, pool.padding)
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


def randomise(model: nn.Module, seed: int) -> None:
    """Random weights and batch norms; scales of batch norms may be negative."""
    generator = torch.Generator().manual_seed(seed)
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            deviation = (2 / layer.weight[0].numel()) ** 0.5
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


def sizes(size: Pair, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair = (1, 1)) -> Pair:
    """Height and width behind a convolution or a pooling; below 1 where the window does not fit."""
    height, width = (
        (size[axis] + 2 * padding[axis] - dilation[axis] * (kernel[axis] - 1) - 1) // stride[axis] + 1
        for axis in (0, 1)
    )
    return height, width


def noise(plan: NetworkPlan, count: int, seed: int) -> Tensor:
    """Images for a plan."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, *plan.image, generator=generator, dtype=torch.float32).to(plan.dtype)


# Random networks -----------------------------------------------------------------------------------------------------


def random_window(random: Random, kernel: Pair, size: Pair) -> tuple[Pair, Pair, Pair]:
    """Stride, padding and dilation with which a window fits the map, each axis by itself."""
    (stride0, padding0, dilation0), (stride1, padding1, dilation1) = (
        random.choice(
            [
                (stride, padding, dilation)
                for stride, padding, dilation in itertools.product((1, 2), (0, 1, 2), (1, 2))
                if size[axis] + 2 * padding >= dilation * (kernel[axis] - 1) + 1
            ]
        )
        for axis in (0, 1)
    )
    return (stride0, stride1), (padding0, padding1), (dilation0, dilation1)


def random_pool(random: Random, size: Pair) -> PoolPlan | None:
    """A pooling whose window fits the map, overlapping or not; in half of the cases none."""
    kernel = random.choice([(2, 2), (3, 3), (2, 3)])
    axes = [
        [(s, p) for s, p in itertools.product((1, 2, 3), (0, 1)) if size[axis] + 2 * p >= kernel[axis]]
        for axis in (0, 1)
    ]
    if not all(axes) or random.random() < 0.5:
        return None
    (stride0, padding0), (stride1, padding1) = (random.choice(axis) for axis in axes)
    return PoolPlan(kernel, (stride0, stride1), (padding0, padding1))


def random_conv(random: Random, target: str, channels: int, size: Pair) -> tuple[ConvPlan, Pair]:
    """A convolution that the target takes at any bit width, and the size of the map behind it and its poolings."""
    side = random.choice((3, 5))
    kernel = (random.randint(1, 5), random.randint(1, 5)) if target == "generic" else (side, side)
    groups = random.choice((1, 2)) if channels % 2 == 0 else 1
    window = random_window(random, kernel, size)
    size = sizes(size, kernel, *window)
    pools: list[PoolPlan] = []
    while len(pools) < 2 and (pool := random_pool(random, size)) is not None:
        pools.append(pool)
        size = sizes(size, pool.kernel, pool.stride, pool.padding)
    outputs = random.randint(1, 4) * groups
    common = (outputs, random.random() < 0.5, random.choice(NORMS), random.random() < 0.5)
    return ConvPlan(*common, kernel, *window, groups, tuple(pools)), size


def random_plan(random: Random, target: str) -> NetworkPlan:
    """A network with 1 to 4 convolutions and up to 2 hidden layers."""
    image = (random.randint(1, 3), random.randint(5, 10), random.randint(5, 10))
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


def random_case(seed: int) -> tuple[NetworkPlan, Options]:
    """A network and options for its conversion; shown where a test fails."""
    random = Random(seed)
    options = Options(
        target=random.choice(("hw_v1.0", "generic")),
        bits=random.randint(1, 4),
        timesteps=random.randint(1, 64),
        reset=random.choice(RESETS),
        initial_membrane=random.choice((0.5, 0.0)),
        per_channel=random.random() < 0.5,
    )
    plan = random_plan(random, options.target)
    note(f"{plan}\n{options}")
    return plan, options


def random_networks(count: int) -> settings:
    """The same `count` networks at every run; not shrunk, since a smaller seed is no smaller network."""
    return settings(
        max_examples=count, derandomize=True, deadline=None, database=None, phases=(Phase.explicit, Phase.generate)
    )


# Both sides ----------------------------------------------------------------------------------------------------------


@contextmanager
def quiet() -> Iterator[None]:
    """Without the library's warnings: random networks deserve all of them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fxsnn.FxsnnWarning)
        yield


def arguments(images: Tensor, options: Options) -> dict[str, Any]:
    """Arguments of `convert` and `pipeline`."""
    return {"calibration_data": images, "input_bits": INPUT_BITS, "example": images[:1], **vars(options)}


def converted(model: nn.Module, images: Tensor, options: Options, **more: Any) -> fxsnn.SpikingNetwork:
    """The library's side."""
    with quiet():
        return fxsnn.convert(model, **{**arguments(images, options), **more})


@dataclass(frozen=True, eq=False)
class Quantiser:
    """λ and Δ of one layer."""

    threshold: float
    step: Reals


def quantisers(model: nn.Module, images: Tensor, options: Options) -> tuple[float, dict[str, Quantiser]]:
    """The input's u, and λ and Δ of every layer, as the pipeline's graph holds them before anything spikes."""
    with quiet():
        passes = fxsnn.pipeline(**arguments(images, options)).until("quantize-weights")
        *_, last = passes.steps(model)
    quantized = last.after["quantized_input"]
    assert isinstance(quantized, QuantizedInput)
    found = {}
    for node in last.after.nodes(LowBit):
        layer, clipped = last.after[node], last.after[next(iter(node.users))]
        assert isinstance(layer, LowBit)
        assert isinstance(clipped, ClippedReLU)
        step = np.broadcast_to(real(layer.step), layer.weight.shape[:1])
        found[last.after.name(node)] = Quantiser(clipped.threshold, step)
    return quantized.unit, found


def held(snn: fxsnn.SpikingNetwork, name: str) -> Any:
    """The converted layer of that name."""
    layer = snn.get_submodule(name)
    assert isinstance(layer, Spiking)
    return layer


def encode(snn: fxsnn.SpikingNetwork) -> Encode:
    """The converted network's first module."""
    return next(module for module in snn.modules() if isinstance(module, Encode))


def whole(values: Tensor) -> Integers:
    """A tensor of whole numbers as int64."""
    array: Integers = values.numpy().astype(np.int64)
    assert np.array_equal(array, values.numpy())
    return array


def real(values: Tensor) -> Reals:
    """A tensor as float64."""
    return values.detach().double().numpy()


def layers_of(snn: fxsnn.SpikingNetwork, model: Planned) -> list[reference.Layer]:
    """The reference's layers: geometry from the plan, integers from the converted network."""
    channels = 0
    layers: list[reference.Layer] = []
    for name, plan in model.geometry.items():
        if isinstance(plan, PoolPlan):
            layers.append(reference.AveragePooling(channels, plan.kernel, plan.stride, plan.padding))
            continue
        layer = held(snn, name)
        neurons = reference.Neurons(layer.gain, whole(layer.threshold), whole(layer.leak))
        codes, channels = whole(layer.codes), plan.outputs
        if isinstance(plan, ConvPlan):
            layers.append(reference.Convolution(neurons, codes, plan.stride, plan.padding, plan.dilation, plan.groups))
        else:
            layers.append(reference.FullyConnected(neurons, codes))
    return layers


def simulate(snn: fxsnn.SpikingNetwork, model: Planned, images: Tensor, options: Options) -> list[reference.Trace]:
    """The reference's side of `snn.simulate`."""
    return reference.simulated(
        layers_of(snn, model),
        reference.encoded(real(images), encode(snn).unit, INPUT_BITS),
        timesteps=options.timesteps,
        reset=options.reset,
        half_start=options.initial_membrane == 0.5,
    )


def tail_of(model: Planned, spikes: Integers, value: Reals) -> Tensor:
    """The ANN's own tail on what the last spiking layer's counts decode to."""
    activations = torch.from_numpy(reference.decoded(spikes, value)).to(model.classifier.weight.dtype)
    with torch.no_grad():
        return model.classifier(activations.flatten(1))


def assert_same_dynamics(snn: fxsnn.SpikingNetwork, model: Planned, images: Tensor, options: Options) -> None:
    """Every spike, every membrane and the logits after every step are the reference's."""
    traces = simulate(snn, model, images, options)
    run = snn.simulate(images, membranes=True)
    assert list(run.spikes) == list(model.geometry)
    for name, trace in zip(model.geometry, traces, strict=True):
        assert np.array_equal(whole(run.membranes[name]), trace.membranes), f"membranes of {name}"
    for engine in ENGINES:
        snn.engine = engine
        assert_same_run(snn, model, images, traces)


def assert_same_run(snn: fxsnn.SpikingNetwork, model: Planned, images: Tensor, traces: list[reference.Trace]) -> None:
    """What one engine shows of a network's inside and outside is the reference's."""
    run, readout = snn.simulate(images), snn.early_readout(images)
    assert list(run.spikes) == list(model.geometry)
    for name, trace in zip(model.geometry, traces, strict=True):
        assert np.array_equal(whole(run.spikes[name]), trace.spikes), f"spikes of {name} with {snn.engine}"
        assert run.membrane_range[name] == (trace.membranes.min(), trace.membranes.max()), f"{name} with {snn.engine}"
    last = held(snn, list(model.geometry)[-1])
    value = real(last.spike_value)
    torch.testing.assert_close(snn(images), tail_of(model, traces[-1].spikes, value), rtol=1e-5, atol=1e-5)
    for t in range(snn.timesteps):
        expected = tail_of(model, traces[-1].spikes[: t + 1], value)
        torch.testing.assert_close(run.logits[t], expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(readout[t], expected, rtol=1e-5, atol=1e-5)


# Integers ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Folded:
    """A layer with its batch norm folded in, and how far a fold in the network's own floats may lie from it."""

    weight: Reals
    bias: Reals
    bias_error: Reals


def folded(model: Planned, name: str, dtype: torch.dtype) -> Folded:
    """The layer of that name, folded in float64."""
    layer: Any = model.get_submodule(name)
    bias = real(layer.bias) if layer.bias is not None else np.zeros(len(layer.weight))
    rounding = FLOAT32_ROUNDING if dtype == torch.float32 else 2.0**-53
    found: Any = dict(model.named_children()).get(f"{name}_norm")
    if found is None:
        return Folded(real(layer.weight), bias, np.zeros_like(bias))
    scale = real(found.weight) if found.affine else np.ones_like(bias)
    shift = real(found.bias) if found.affine else np.zeros_like(bias)
    norm = reference.BatchNorm(real(found.running_mean), real(found.running_var), scale, shift, found.eps)
    weight, new_bias = reference.folded(real(layer.weight), bias, norm)
    size = (np.abs(bias) + np.abs(norm.mean)) * np.abs(scale) / np.sqrt(norm.variance + norm.eps) + np.abs(shift)
    return Folded(weight, new_bias, 8 * rounding * size)


def assert_rounded(found: Integers, exact: Reals, error: Reals | float) -> None:
    """`found` is `exact` rounded; where `exact` lies within `error` of a half, either neighbour will do."""
    assert np.all(np.abs(found - exact) <= 0.5 + error), f"{found} for {exact}"


def assert_same_codes(found: Integers, weight: Reals, step: Reals, bits: int) -> None:
    """Codes are those of the reference wherever W/Δ is not within 1e-4 of where the code changes."""
    scaled = weight / reference.along_first_axis(step, weight)
    distance = np.abs(scaled) if bits == 1 else np.abs(scaled - np.floor(scaled) - 0.5)
    ambiguous = (distance < 1e-4) & (scaled != 0)
    expected = reference.weight_codes(weight, step, bits)
    assert np.array_equal(np.where(ambiguous, expected, found), expected)
    assert np.all(np.abs(found) <= reference.largest_code(bits))
    assert bits > 1 or np.all(found != 0)


def largest_gains(own: Folded, given: Quantiser, unit: float, options: Options) -> tuple[int, int]:
    """The largest gain at both ends of what the bias may be after folding, the smaller first."""
    outer, inner = (
        reference.largest_gain(given.threshold, bias, given.step, unit, options.bits, WIDTHS[options.target])
        for bias in (own.bias + np.sign(own.bias) * own.bias_error, own.bias - np.sign(own.bias) * own.bias_error)
    )
    return min(outer, inner), max(outer, inner)


def refused_layer(
    model: Planned, plan: NetworkPlan, given: dict[str, Quantiser], unit: float, options: Options
) -> str | None:
    """The first layer with a value that does not fit its register even at a gain of 1."""
    for name, quantiser in given.items():
        try:
            gain, _ = largest_gains(folded(model, name, plan.dtype), quantiser, unit, options)
        except OverflowError:
            return name
        theta = reference.integer_threshold(quantiser.threshold, quantiser.step, unit, gain)
        unit = float(reference.spike_value(theta, quantiser.step, unit, gain).mean())
    return None


def assert_same_integers(model: Planned, plan: NetworkPlan, options: Options) -> None:
    """q, m, θ, β and s of every layer follow from W, b, λ, Δ and u; what cannot fit its register is refused."""
    images = noise(plan, 8, seed=1)
    unit, given = quantisers(model, images, options)
    refused, snn = "", None
    try:
        snn = converted(model, images, options)
    except fxsnn.TargetError as error:
        refused = error.findings[0].layer
    if snn is None:
        assert refused == refused_layer(model, plan, given, unit, options)
        return
    assert encode(snn).unit == unit
    value = np.ones(1)
    slack = 1e-3 if plan.dtype == torch.float32 else 1e-6
    for name, geometry in model.geometry.items():
        layer = held(snn, name)
        if isinstance(geometry, PoolPlan):
            size = geometry.kernel[0] * geometry.kernel[1]
            assert (layer.gain, set(layer.threshold.tolist()), set(layer.leak.tolist())) == (1, {size}, {0})
            assert np.array_equal(real(layer.spike_value), value)
            continue
        own, step, gain = folded(model, name, plan.dtype), given[name].step, layer.gain
        assert np.array_equal(real(layer.step), step)
        assert np.all(step == step[0]) or options.per_channel
        np.testing.assert_allclose(layer.input_unit, unit, rtol=1e-12)
        assert_same_codes(whole(layer.codes), own.weight, step, options.bits)
        least, most = largest_gains(own, given[name], unit, options)
        assert least <= gain <= most
        theta, beta = whole(layer.threshold), whole(layer.leak)
        exact_theta = reference.real_threshold(given[name].threshold, step, unit, gain)
        assert_rounded(theta, np.maximum(1, exact_theta), slack)
        exact_beta = reference.real_leak(own.bias, step, unit, gain)
        assert_rounded(beta, exact_beta, np.maximum(slack, own.bias_error * gain / (step * unit)))
        value = real(layer.spike_value)
        np.testing.assert_allclose(value, reference.spike_value(theta, step, unit, gain), rtol=1e-12)
        unit = float(value.mean())


# The rules -----------------------------------------------------------------------------------------------------------


@random_networks(30)
@given(seed=SEEDS)
def test_every_spike_and_membrane_is_that_of_the_contract(seed: int) -> None:
    plan, options = random_case(seed)
    model = Planned(plan)
    try:
        snn = converted(model, noise(plan, 8, seed=1), options)
    except fxsnn.TargetError:
        assume(False)  # a value does not fit its register; the rule of the integers below says when that is right
    assert_same_dynamics(snn, model, 1.2 * noise(plan, 2, seed=2), options)


@random_networks(24)
@given(seed=SEEDS, dtype=st.sampled_from((torch.float32, torch.float64)))
def test_every_integer_follows_from_the_trained_floats(seed: int, dtype: torch.dtype) -> None:
    plan, options = random_case(seed)
    plan = replace(plan, dtype=dtype)
    assert_same_integers(Planned(plan), plan, options)


@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize("kernel", [3, 5])
def test_every_kernel_bit_width_and_reset_over_64_steps(kernel: int, bits: int, reset: Reset) -> None:
    size, same = (kernel, kernel), (kernel // 2, kernel // 2)
    halving = PoolPlan((2, 2), (2, 2), (0, 0))
    plan = NetworkPlan(
        (3, 8, 8),
        (
            ConvPlan(6, norm="affine", kernel=size, padding=same, pools=(halving,)),
            ConvPlan(8, norm="plain", bias=False, kernel=size, padding=same, groups=2),
        ),
        (LayerPlan(10, norm="affine"),),
        seed=5,
    )
    options = Options(bits=bits, timesteps=64, reset=reset)
    model, images = Planned(plan), noise(plan, 8, seed=1)
    snn = converted(model, images, options)
    assert_same_dynamics(snn, model, images[:3], options)
    assert_same_integers(model, plan, options)
    rates = snn.simulate(images).firing_rates.values()
    assert all(0.01 < rate < 0.99 for rate in rates), "a silent network proves nothing"


@pytest.mark.parametrize("reset", RESETS)
def test_a_membrane_far_below_zero_pays_off_its_whole_debt(reset: Reset) -> None:
    """One input neuron fires at every step and inhibits, another every seventh step and excites seven times as much."""
    plan = NetworkPlan((1, 1, 1), (ConvPlan(2), ConvPlan(1)))
    model, image = Planned(plan), torch.ones(1, 1, 1, 1)
    with torch.no_grad():
        for name, centre, bias in (("conv0", [[1.0], [1 / 7]], [0.0, 0.0]), ("conv1", [[-1.0, 7.0]], [0.1])):
            layer: Any = model.get_submodule(name)
            layer.weight.zero_()
            layer.weight[:, :, 1, 1] = torch.tensor(centre)
            layer.bias.copy_(torch.tensor(bias))
    options = Options(timesteps=64, reset=reset)
    snn = converted(model, image, options, calibration="max")
    assert_same_dynamics(snn, model, image, options)
    theta = int(held(snn, "conv1").threshold)
    low, high = snn.simulate(image).membrane_range["conv1"]
    assert low < -20 * theta
    assert high >= theta


def test_the_logits_of_row_t_are_those_of_a_run_of_t_plus_1_steps() -> None:
    plan = NetworkPlan(
        (2, 8, 8), (ConvPlan(6, norm="affine", pools=(PoolPlan((2, 2), (2, 2), (0, 0)),)), ConvPlan(6)), seed=1
    )
    options = Options(timesteps=20)
    model, images = Planned(plan), noise(plan, 6, seed=1)
    snn = converted(model, images, options)
    run = snn.simulate(images)
    for t in range(options.timesteps):
        snn.timesteps = t + 1
        torch.testing.assert_close(run.logits[t], snn(images), rtol=1e-6, atol=1e-6)
        for name, spikes in snn.simulate(images).spikes.items():
            assert torch.equal(run.spikes[name][: t + 1], spikes)


def test_a_fully_connected_first_layer_reads_the_constant_integer_input() -> None:
    plan = NetworkPlan((2, 4, 5), (), (LayerPlan(9, norm="affine"), LayerPlan(7)), seed=1)
    options = Options(bits=3, timesteps=32)
    model, images = Planned(plan), noise(plan, 8, seed=1)
    assert_same_dynamics(converted(model, images, options), model, images[:3], options)
    assert_same_integers(model, plan, options)


@pytest.mark.parametrize("norm", ["plain", "affine"])
def test_a_batch_norm_with_or_without_affine_parameters_folds_behind_a_hidden_layer_too(norm: str) -> None:
    plan = NetworkPlan((1, 6, 6), (ConvPlan(4, norm=norm),), (LayerPlan(5, norm=norm),), seed=1)
    assert_same_integers(Planned(plan), plan, Options())


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_a_channel_whose_weights_are_all_zero_follows_the_same_rules(bits: int) -> None:
    plan = NetworkPlan((2, 6, 6), (ConvPlan(4, norm="dead"), ConvPlan(4, norm="dead")), (LayerPlan(5, norm="dead"),))
    options = Options(target="generic", bits=bits)
    model, images = Planned(plan), noise(plan, 8, seed=1)
    snn = converted(model, images, options)
    assert {int(code) for code in held(snn, "conv0").codes[0].flatten()} == ({1} if bits == 1 else {0})
    assert_same_integers(model, plan, options)
    assert_same_dynamics(snn, model, images[:2], options)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("build", "image", "bits"), [(DigitNet, (1, 28, 28), 4), (ColourNet, (3, 32, 32), 2)], ids=["DigitNet", "ColourNet"]
)
def test_the_networks_of_the_examples(
    build: Callable[[], nn.Module], image: tuple[int, int, int], bits: int, engine: str
) -> None:
    images = torch.randn(8, *image, generator=torch.Generator().manual_seed(3))
    options = Options(bits=bits, timesteps=8)
    snn = converted(seeded(build), images, options, engine=engine)
    layers = [as_reference(layer) for layer in snn.modules() if isinstance(layer, Spiking)]
    traces = reference.simulated(
        layers,
        reference.encoded(real(images[:2]), encode(snn).unit, INPUT_BITS),
        timesteps=8,
        reset=options.reset,
        half_start=True,
    )
    run = snn.simulate(images[:2])
    assert len(run.spikes) == len(layers)
    for (name, spikes), trace in zip(run.spikes.items(), traces, strict=True):
        assert np.array_equal(whole(spikes), trace.spikes), name
        assert run.membrane_range[name] == (trace.membranes.min(), trace.membranes.max()), name
        assert 0 < trace.spikes.mean() < 1, f"{name} proves nothing"


def as_reference(layer: Any) -> reference.Layer:
    """The reference's layer for a converted one."""
    if isinstance(layer, fxsnn.SpikeAvgPool2d):
        padding = (0, 0)
        return reference.AveragePooling(len(layer.threshold), layer.window(), layer.window(), padding)
    neurons = reference.Neurons(layer.gain, whole(layer.threshold), whole(layer.leak))
    if isinstance(layer, fxsnn.SpikeConv2d):
        padding = (int(layer.padding[0]), int(layer.padding[1]))
        return reference.Convolution(neurons, whole(layer.codes), (1, 1), padding, (1, 1), 1)
    return reference.FullyConnected(neurons, whole(layer.codes))
