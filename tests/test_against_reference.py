"""Random networks: the converted network against the contract's integers, computed independently."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from networks import ColourNet, DigitNet
from torch import Tensor, nn

import fxsnn
from fxsnn.layers import ClippedReLU, Encode, LowBit, QuantizedInput, Spiking
from tests import reference
from tests.engines import EVERY_ENGINE
from tests.nets import seeded
from tests.random_networks import (
    RESETS,
    ConvPlan,
    LayerPlan,
    NetworkPlan,
    Options,
    Planned,
    PoolPlan,
    arguments,
    converted,
    convertible_case,
    noise,
    quiet,
    random_case,
    random_seeds,
)
from tests.reference import Integers, Reals, Reset, even_sides

# Noise has long tails, which an input of few bits clips.
pytestmark = pytest.mark.filterwarnings("ignore:images range from")

WIDTHS = {"hw_v1.0": reference.Widths(11, 18, 19), "generic": reference.Widths(11, 24, 24)}
FLOAT32_ROUNDING = 2.0**-24


# Both sides ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Quantiser:
    """λ, Δ and the levels of one layer."""

    threshold: float
    step: Reals
    levels: reference.Levels


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
        found[last.after.name(node)] = Quantiser(clipped.threshold, step, layer.codebook.levels)
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
            layers.append(reference.Convolution(neurons, codes, plan.stride, plan.sides, plan.dilation, plan.groups))
        else:
            layers.append(reference.FullyConnected(neurons, codes))
    return layers


def simulate(snn: fxsnn.SpikingNetwork, model: Planned, images: Tensor, options: Options) -> list[reference.Trace]:
    """The reference's side of `snn.simulate`."""
    maps = real(images.unsqueeze(2) if images.dim() == 3 else images)
    if encode(snn).affine is not None:
        assert isinstance(model, Normalised)
        maps = reference.normalised(maps, 1 / real(model.deviation), -real(model.centre) / real(model.deviation))
    return reference.simulated(
        layers_of(snn, model),
        reference.encoded(maps, encode(snn).unit, options.input_bits),
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
    value = real(held(snn, list(model.geometry)[-1]).spike_value)
    logits = torch.stack([tail_of(model, traces[-1].spikes[: t + 1], value) for t in range(snn.timesteps)])
    for engine in EVERY_ENGINE:
        snn.engine = engine
        assert_same_run(snn, images, dict(zip(model.geometry, traces, strict=True)), logits)


def assert_same_run(
    snn: fxsnn.SpikingNetwork, images: Tensor, traces: dict[str, reference.Trace], logits: Tensor
) -> None:
    """What one engine shows of a network's inside and outside is the reference's."""
    run, readout = snn.simulate(images), snn.early_readout(images)
    assert list(run.spikes) == list(traces)
    for name, trace in traces.items():
        assert np.array_equal(whole(run.spikes[name]), trace.spikes), f"spikes of {name} with {snn.engine}"
        assert run.membrane_range[name] == (trace.membranes.min(), trace.membranes.max()), f"{name} with {snn.engine}"
    for found in (run.logits, readout):
        torch.testing.assert_close(found, logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(snn(images), logits[-1], rtol=1e-5, atol=1e-5)


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
    weight = real(layer.weight)
    if isinstance(layer, nn.ConvTranspose2d):
        weight = reference.turned(weight, layer.groups)
    bias = real(layer.bias) if layer.bias is not None else np.zeros(len(weight))
    rounding = FLOAT32_ROUNDING if dtype == torch.float32 else 2.0**-53
    found: Any = dict(model.named_children()).get(f"{name}_norm")
    if found is None:
        return Folded(weight, bias, np.zeros_like(bias))
    scale = real(found.weight) if found.affine else np.ones_like(bias)
    shift = real(found.bias) if found.affine else np.zeros_like(bias)
    norm = reference.BatchNorm(real(found.running_mean), real(found.running_var), scale, shift, found.eps)
    weight, new_bias = reference.folded(weight, bias, norm)
    size = (np.abs(bias) + np.abs(norm.mean)) * np.abs(scale) / np.sqrt(norm.variance + norm.eps) + np.abs(shift)
    return Folded(weight, new_bias, 8 * rounding * size)


def assert_rounded(found: Integers, exact: Reals, error: Reals | float) -> None:
    """`found` is `exact` rounded; where `exact` lies within `error` of a half, either neighbour will do."""
    assert np.all(np.abs(found - exact) <= 0.5 + error), f"{found} for {exact}"


def assert_same_codes(found: Integers, weight: Reals, step: Reals, levels: reference.Levels) -> None:
    """Codes are those of the reference wherever W/Δ is not within 1e-4 of where the code changes."""
    scaled = weight / reference.along_first_axis(step, weight)
    halfway = np.convolve(levels, [0.5, 0.5], "valid")
    distance = np.abs(scaled[..., None] - halfway).min(axis=-1)
    ambiguous = (distance < 1e-4) & (scaled != 0)
    expected = reference.weight_codes(weight, step, levels)
    assert np.array_equal(np.where(ambiguous, expected, found), expected)
    assert set(found.ravel()) <= set(levels)


def largest_gains(own: Folded, given: Quantiser, unit: float, options: Options) -> tuple[int, int]:
    """The largest gain at both ends of what the bias may be after folding, the smaller first."""
    outer, inner = (
        reference.largest_gain(given.threshold, bias, given.step, unit, given.levels, WIDTHS[options.target])
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
        levels = given[name].levels
        assert reference.are_levels(levels, options.bits, options.codebook)
        assert layer.codebook.levels == levels
        assert_same_codes(whole(layer.codes), own.weight, step, levels)
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


@random_seeds(2, slow=298)
def test_every_spike_and_membrane_is_that_of_the_contract(seed: int) -> None:
    case = convertible_case(seed, finetuned=seed % 8 == 0)
    assert_same_dynamics(case.snn, case.model, 1.2 * noise(case.plan, 2, seed=2), case.options)


@random_seeds(1, slow=99)
def test_signals_are_maps_of_one_row_to_the_contract(seed: int) -> None:
    case = convertible_case(seed, signals=True)
    images = noise(case.plan, 2, seed=2).squeeze(2)
    assert case.snn.image_size == tuple(images.shape[1:])
    assert_same_dynamics(case.snn, case.model, 1.2 * images, case.options)


@random_seeds(1, slow=99)
def test_padding_by_layers_of_its_own_is_that_of_the_convolutions_behind_them(seed: int) -> None:
    case = convertible_case(seed, finetuned=seed % 8 == 0, padded=True, signals=seed % 4 == 3)
    images = noise(case.plan, 2, seed=2)
    images = images.squeeze(2) if seed % 4 == 3 else images
    assert_same_dynamics(case.snn, case.model, 1.2 * images, case.options)


class Normalised(Planned):
    """A network that normalises its images itself."""

    def __init__(self, plan: NetworkPlan) -> None:
        super().__init__(plan)
        generator = torch.Generator().manual_seed(plan.seed)
        self.register_buffer("centre", torch.randn(plan.image[0], generator=generator))
        self.register_buffer("deviation", torch.rand(plan.image[0], generator=generator) + 0.1)

    centre: Tensor
    deviation: Tensor

    def forward(self, x: Tensor) -> Any:
        return super().forward((x - self.centre[:, None, None]) / self.deviation[:, None, None])


@random_seeds(1, slow=65)
def test_images_that_the_network_normalises_are_normalised_in_front_of_the_rounding(seed: int) -> None:
    plan, options = random_case(f"normalised {seed}")
    first = replace(plan.convs[0], kernel=(3, 3), padding=(1, 1), dilation=(1, 1), pools=())
    plan = replace(plan, convs=(first,))  # another one may not fit behind it
    model, images = Normalised(plan), noise(plan, 8, seed=1)
    snn = converted(model, images, replace(options, target="generic"), bits=max(2, options.bits))
    assert encode(snn).affine is not None
    assert_same_dynamics(snn, model, noise(plan, 2, seed=2), options)


def test_vectors_are_read_as_they_are() -> None:
    plan = NetworkPlan((1, 1, 20), (), (LayerPlan(9, norm="affine"), LayerPlan(7)), seed=1)
    options = Options(bits=3, timesteps=32)
    model, images = Planned(plan), noise(plan, 8, seed=1).flatten(1)
    model.calls.remove("flatten")
    snn = converted(model, images, options)
    assert snn.image_size == (20,)
    assert_same_dynamics(snn, model, images[:3], options)


@pytest.mark.parametrize(
    "dtype", [torch.float32, pytest.param(torch.float64, marks=pytest.mark.slow)], ids=["float32", "float64"]
)
@random_seeds(1, slow=31)
def test_every_integer_follows_from_the_trained_floats(seed: int, dtype: torch.dtype) -> None:
    plan, options = random_case(seed)
    plan = replace(plan, dtype=dtype)
    assert_same_integers(Planned(plan), plan, options)


SLOW = pytest.mark.slow
QUICK = [(3, 1, "zero"), (3, 4, "subtraction")]


@pytest.mark.parametrize(
    ("kernel", "bits", "reset"),
    [
        case if case in QUICK else pytest.param(*case, marks=SLOW)
        for case in itertools.product((3, 5), (1, 2, 3, 4), RESETS)
    ],
)
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


@pytest.mark.parametrize("bits", [pytest.param(1, marks=SLOW), 2, *(pytest.param(bits, marks=SLOW) for bits in (3, 4))])
def test_a_channel_whose_weights_are_all_zero_follows_the_same_rules(bits: int) -> None:
    plan = NetworkPlan((2, 6, 6), (ConvPlan(4, norm="dead"), ConvPlan(4, norm="dead")), (LayerPlan(5, norm="dead"),))
    options = Options(target="generic", bits=bits)
    model, images = Planned(plan), noise(plan, 8, seed=1)
    snn = converted(model, images, options)
    assert {int(code) for code in held(snn, "conv0").codes[0].flatten()} == ({1} if bits == 1 else {0})
    assert_same_integers(model, plan, options)
    assert_same_dynamics(snn, model, images[:2], options)


@pytest.mark.parametrize("engine", EVERY_ENGINE)
@pytest.mark.parametrize(
    ("build", "image", "bits"),
    [
        pytest.param(DigitNet, (1, 28, 28), 4, id="DigitNet"),
        pytest.param(ColourNet, (3, 32, 32), 2, id="ColourNet", marks=SLOW),
    ],
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
        reference.encoded(real(images[:2]), encode(snn).unit, options.input_bits),
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
        sides = even_sides((int(layer.padding[0]), int(layer.padding[1])))
        return reference.Convolution(neurons, whole(layer.codes), (1, 1), sides, (1, 1), 1)
    return reference.FullyConnected(neurons, whole(layer.codes))
