"""Biases and thresholds suit n-bit weights and real spikes afterwards; nothing else changes."""

from __future__ import annotations

import itertools
import threading
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import fxsnn
from fxsnn.calibration import Watch, samples, shift_for_mean
from fxsnn.errors import DataError, ModelError, OptionError, PipelineError, TargetError
from fxsnn.graph import Graph
from fxsnn.layers import ClippedReLU, LowBit, RateReLU, Spiking
from fxsnn.numerics import Dynamics
from fxsnn.passes import (
    FRONT_END,
    CalibrateThresholds,
    Canonicalize,
    CorrectLayers,
    FoldBatchNorm,
    QuantizeWeights,
    correct_layers,
)
from fxsnn.rewriting import Pipeline
from fxsnn.training import SpikeFrontier, Student, correction, float_form
from tests import clipped
from tests.nets import CONVERTIBLE, Small, images, seeded
from tests.residual import RESIDUAL
from tests.sharing import cases, rewritten_once

V1 = fxsnn.get_target("hw_v1.0")
GENERIC = fxsnn.get_target("generic")
IMAGES = images(48)


@rewritten_once
def residual(name: str) -> Graph:
    """A network with sums, in front of the pass."""
    passes = (*FRONT_END, FoldBatchNorm(), CalibrateThresholds(IMAGES), QuantizeWeights(2))
    return Pipeline(passes).run(RESIDUAL[name]())


def quantised(model: nn.Module) -> Graph:
    passes = (Canonicalize(), FoldBatchNorm(), CalibrateThresholds(IMAGES), QuantizeWeights(2))
    return Pipeline(passes).run(model)


GRAPH = quantised(seeded(Small))


def mean_activations(
    graph: Graph, tops: dict[str, float], *, spiking: bool, chip: Any = V1, **options: Any
) -> dict[str, Tensor]:
    """Mean activation of each channel: of real spikes, or in floating point, clipped."""
    if spiking:
        snn = Student(graph.copy(), chip, Dynamics(8, **options)).spiking()
        counts = {name: one.double().transpose(0, 1).flatten(1) for name, one in snn.count_spikes(IMAGES).items()}
        return {name: counts[name].mean(1) / 8 * snn.graph[name].spike_value for name in tops}  # type: ignore[operator]
    found: dict[str, Tensor] = {}

    def see(node: Any, value: Tensor) -> None:
        name = graph.name(node)
        found[name] = value.double().clamp(0, tops[name]).transpose(0, 1).flatten(1).mean(1)

    with torch.no_grad():
        Watch(graph, [node for node in graph.body() if graph.name(node) in tops], see).run(IMAGES)
    return found


def thresholds_behind(graph: Graph) -> dict[str, float]:
    """The threshold of the activation behind each layer that has one."""
    found = {}
    for node in graph.nodes(ClippedReLU):
        clipped: Any = graph[node]
        found[graph.name(node.all_input_nodes[0])] = clipped.threshold
    return found


@cases("name", CONVERTIBLE, quick=("modules", "one relu", "dense", "hand-written"))
def test_with_corrected_biases_every_channel_is_as_active_as_in_the_float_network(name: str) -> None:
    graph = quantised(seeded(CONVERTIBLE[name]))
    tops = {}
    for node in graph.body(LowBit):
        clipped: Any = graph[next(iter(node.users))]
        tops[graph.name(node)] = clipped.threshold
    wanted = mean_activations(float_form(graph), tops, spiking=False)
    after = CorrectLayers(IMAGES, V1, weights=False, thresholds=False, timesteps=8)(graph).after
    found = mean_activations(after, tops, spiking=True)
    for layer, mean in wanted.items():
        assert float((found[layer] - mean).abs().mean()) < 0.07 * float(mean.mean()), layer  # whole numbers


@pytest.mark.parametrize("options", [{}, {"reset": "zero"}, {"initial_membrane": 0.0}], ids=str)
def test_biases_follow_the_spikes_that_there_are(options: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A steady drive would make others: of bursts, of resets that throw away, of membranes that start low."""
    tops = thresholds_behind(GRAPH)
    wanted = mean_activations(float_form(GRAPH), tops, spiking=False)
    errors = []
    for settled in (True, False):
        if not settled:
            monkeypatch.setattr(correction.Correction, "_settle", lambda self, node: None)
        after = CorrectLayers(IMAGES, V1, weights=False, thresholds=False, timesteps=8, **options)(GRAPH).after
        found = mean_activations(after, tops, spiking=True, **options)
        errors.append(sum(float((found[layer] - mean).abs().mean() / mean.mean()) for layer, mean in wanted.items()))
    assert errors[0] < 0.6 * errors[1], errors


@pytest.mark.slow
def test_a_deep_network_of_two_bits_does_not_fall_silent(convert: Any) -> None:
    """Twelve convolutions, where equal means in front of the ReLUs are not enough."""
    layers: list[nn.Module] = []
    for channels in (3, *[12] * 11):
        layers += [nn.Conv2d(channels, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU()]
    model = seeded(lambda: nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5)))
    snn = convert(model, timesteps=8, calibration_data=IMAGES, correction="biases")
    rates = snn.simulate(IMAGES).firing_rates
    analog = fxsnn.layer_activations(model, snn, IMAGES)
    for name, rate in rates.items():
        spike_value = float(getattr(snn.graph[name], "spike_value").mean())  # noqa: B009
        assert rate * spike_value == pytest.approx(float(analog[name][0].mean()), rel=0.35), name


@settings(max_examples=40)
@given(st.integers(0, 1000), st.floats(0, 1), st.floats(0.1, 5))
def test_shifted_values_have_the_mean_that_is_wanted(seed: int, share: float, top: float) -> None:
    values = torch.randn(3, 200, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    wanted = torch.tensor([0.0, share * top, top], dtype=torch.float64)
    shift = shift_for_mean(values, wanted, top)
    torch.testing.assert_close((values + shift[:, None]).clamp(0, top).mean(1), wanted, atol=1e-12, rtol=0)


def test_of_much_data_only_a_part_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "_VALUES", 500)
    monkeypatch.setattr(samples, "_VALUES_IN_ALL", 900)
    monkeypatch.setattr(correct_layers, "_CHUNK", 8)
    seen: list[int] = []

    def no_shift(values: Tensor, wanted: Tensor, top: float) -> Tensor:
        seen.append(values.shape[1])
        return torch.zeros_like(wanted)

    monkeypatch.setattr(correction, "shift_for_mean", no_shift)
    CorrectLayers(IMAGES, V1, weights=False, thresholds=False, timesteps=8)(GRAPH)
    assert max(seen) <= 900


def test_the_graph_before_and_the_weights_stay() -> None:
    text = GRAPH.text()
    after = CorrectLayers(IMAGES, V1, weights=False, timesteps=8)(GRAPH).after
    assert GRAPH.text() == text
    for node in GRAPH.nodes(LowBit):
        layer: Any = after[GRAPH.name(node)]
        before: Any = GRAPH[node]
        assert torch.equal(layer.codes(), before.codes())
        assert torch.equal(layer.step, before.step)
        assert not torch.equal(layer.bias, before.bias)


def test_thresholds_alone_leave_the_biases() -> None:
    after = CorrectLayers(IMAGES, V1, weights=False, biases=False, timesteps=8)(GRAPH).after
    for node in GRAPH.nodes(LowBit):
        layer: Any = after[GRAPH.name(node)]
        before: Any = GRAPH[node]
        assert torch.equal(layer.bias, before.bias)


def test_no_other_threshold_of_the_first_layer_is_much_better() -> None:
    """The error of the rate of 8 steps against the drive, for the threshold found and for others."""
    graph = CorrectLayers(IMAGES, V1, weights=False, biases=False, timesteps=8)(GRAPH).after
    first = graph.body(LowBit)[0]
    seen: list[Tensor] = []
    Watch(graph, [first], lambda _, x: seen.append(x.detach().clamp(min=0))).run(IMAGES)
    module: Any = graph[next(iter(first.users))]

    def error(threshold: float) -> float:
        return float((ClippedReLU(threshold, Dynamics(8))(seen[0]) - seen[0]).square().mean())

    best = error(module.threshold)
    assert all(best <= 1.02 * error(module.threshold * factor) for factor in (0.5, 0.7, 0.9, 1.1, 1.4, 2))


def test_a_conversion_is_nearer_to_the_network_with_both(convert: Any) -> None:
    model = seeded(Small)
    with torch.no_grad():
        wanted = model(IMAGES)

    def error(correction: str | None) -> float:
        snn = convert(model, timesteps=8, calibration_data=IMAGES, correction=correction)
        with torch.no_grad():
            return float((snn(IMAGES) - wanted).square().mean())

    assert error("both") < error(None)
    assert error("biases") < error(None)


@cases("last", [60, 1, 128], quick=1)
def test_every_image_counts_alike_in_whatever_batch_it_comes(last: int) -> None:
    """The last images are others than those before; their batch may be smaller than what is seen at once."""
    data = torch.cat([images(128, size=24), 3 * images(last, size=24, seed=2)])
    model = seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 22 * 22, 5)))
    passes = (Canonicalize(), FoldBatchNorm(), CalibrateThresholds(data), QuantizeWeights(2))
    graph = Pipeline(passes).run(model)
    after = CorrectLayers(data, V1, weights=False, thresholds=False, timesteps=64)(graph).after
    top = next(after[node].threshold for node in after.nodes(ClippedReLU))
    means = []
    for network in (float_form(graph), after):
        found: list[Tensor] = []
        node = network.body(nn.Conv2d)[0]
        Watch(network, [node], lambda _, value, found=found: found.append(value.double().clamp(0, top))).run(data)  # type: ignore[misc]
        means.append(found[0].mean((0, 2, 3)))
    torch.testing.assert_close(means[1], means[0], rtol=0.05, atol=0.02)


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("correction", ["biases", "both"])
def test_every_layer_sees_the_same_images_of_data_that_draw(correction: str, own: bool) -> None:
    """A shuffled loader that leaves some images out; it may have a generator of its own."""
    generator = torch.Generator().manual_seed(3) if own else torch.default_generator
    loader = DataLoader(TensorDataset(IMAGES, torch.arange(48)), 20, shuffle=True, drop_last=True, generator=generator)
    options: dict[str, Any] = {"thresholds": correction == "both", "timesteps": 8}
    states = torch.get_rng_state(), generator.get_state()
    first, second = (CorrectLayers(loader, V1, **options)(GRAPH).after.text() for _ in range(2))
    assert first == second
    assert torch.equal(torch.get_rng_state(), states[0])
    assert torch.equal(generator.get_state(), states[1])


def test_after_a_failure_generators_are_as_they_were_and_other_threads_convert(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who keeps the error keeps all that was going on, as an interactive session does."""

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    loader, state = DataLoader(TensorDataset(IMAGES), 24, shuffle=True), torch.get_rng_state()
    monkeypatch.setattr("fxsnn.calibration.observation.Histogram.add", fail)
    with pytest.raises(KeyboardInterrupt) as kept:
        CorrectLayers(loader, V1)(GRAPH)
    monkeypatch.undo()
    assert torch.equal(torch.get_rng_state(), state)
    found: list[object] = []
    other = threading.Thread(target=lambda: found.append(CorrectLayers(loader, V1)(GRAPH)), daemon=True)
    other.start()
    other.join(60)
    assert len(found) == 1
    del kept


def test_what_is_not_allowed_is_refused(convert: Any) -> None:
    with pytest.raises(OptionError, match="all False"):
        CorrectLayers(IMAGES, V1, weights=False, biases=False, thresholds=False)
    with pytest.raises(PipelineError, match="needs data"):
        CorrectLayers(None, V1)(GRAPH)
    with pytest.raises(DataError, match="channels"):
        CorrectLayers(IMAGES[:, :2], V1)(GRAPH)
    for biases in (True, False):
        with pytest.raises(DataError, match=r"does not accept calibration images of shape|the images are too small"):
            CorrectLayers(IMAGES[:, :, :2, :2], V1, biases=biases)(GRAPH)
    with pytest.raises(OptionError, match=r"target is 'hw_v1.0'; expected a HardwareTarget, such as fxsnn.get_target"):
        CorrectLayers(IMAGES, "hw_v1.0")  # type: ignore[arg-type]
    with pytest.raises(ModelError, match=r"conv1 .*its weights are torch.float16, too narrow to learn"):
        CorrectLayers(IMAGES, V1)(quantised(seeded(Small).half()))
    with pytest.raises(OptionError, match=r"correction is 'most'; allowed are 'weights', .*'all', 'auto', or None"):
        convert(seeded(Small), calibration_data=IMAGES, correction="most")
    with pytest.raises(OptionError, match="correction='biases' needs images: pass calibration_data"):
        convert(seeded(Small), correction="biases")
    with pytest.raises(OptionError, match="a list_iterator can be read once only: pass a list of its batches"):
        convert(seeded(Small), calibration_data=iter([IMAGES]), correction="biases")


def test_what_fits_no_register_is_said_without_speaking_of_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bias that is moved beyond the register of the leak."""
    monkeypatch.setattr(correction, "shift_for_mean", lambda values, wanted, top: wanted + 1e9)
    with pytest.raises(
        TargetError, match=r"its leak \(bias\) is .* It is the correction that moves it there"
    ) as caught:
        CorrectLayers(IMAGES, V1, weights=False, timesteps=8)(GRAPH)
    assert "Train it" not in str(caught.value)


def deep(layers: int) -> Graph:
    """A chain of convolutions with a pooling in its middle."""

    def build() -> nn.Module:
        parts: list[nn.Module] = []
        for place in range(layers):
            parts += [nn.Conv2d(4 if place else 3, 4, 3, padding=1), nn.ReLU()]
        parts[layers:layers] = [nn.AvgPool2d(2)]
        return nn.Sequential(*parts, nn.Flatten(), nn.Linear(144, 5))

    return quantised(seeded(build))


def executions(graph: Graph, **options: Any) -> dict[str, int]:
    """How often layers are run in floating point and as neurons by a correction."""
    counts = {"float": 0, "spiking": 0}

    def count(module: nn.Module, *_: Any) -> None:
        counts["float"] += isinstance(module, LowBit)
        counts["spiking"] += isinstance(module, Spiking)

    handle = nn.modules.module.register_module_forward_hook(count)
    try:
        CorrectLayers(IMAGES[:16], V1, weights=False, timesteps=8, **options)(graph)
    finally:
        handle.remove()
    return counts


@pytest.mark.filterwarnings("ignore::fxsnn.errors.CalibrationWarning")
@pytest.mark.parametrize(("thresholds", "passes"), [pytest.param(False, 2, marks=pytest.mark.slow), (True, 3)])
def test_each_layer_fires_twice_however_deep_the_network_is(*, thresholds: bool, passes: int) -> None:
    """To see what becomes of its bias; its readers get of each channel the spikes that stayed."""
    for layers in (4, 8):
        found = executions(deep(layers), thresholds=thresholds)
        assert found == {"float": passes * layers, "spiking": 2 * layers + 1}, layers  # the pooling once


@pytest.mark.parametrize(
    "most", [pytest.param(0, marks=pytest.mark.slow), 3000, pytest.param(1 << 30, marks=pytest.mark.slow)]
)
def test_what_is_kept_between_layers_changes_nothing(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """Batches whose spikes are kept, that start from their images for every layer, and both beside each other."""
    monkeypatch.setattr(correct_layers, "_CHUNK", 12)
    own = torch.Generator().manual_seed(3)
    loader = DataLoader(TensorDataset(IMAGES), 24, shuffle=True, drop_last=True, generator=own)
    graph = deep(4)
    expected = CorrectLayers(loader, V1, timesteps=11)(graph).after.text()
    monkeypatch.setattr(correction, "_MOST_KEPT", most)
    assert CorrectLayers(loader, V1, timesteps=11)(graph).after.text() == expected


def test_a_layer_is_seen_with_the_rates_of_the_whole_spiking_network() -> None:
    """What the correction goes on from, layer by layer, against a simulation of everything from the images on."""
    student = Student(quantised(seeded(Small)), V1, Dynamics(11))
    frontier = SpikeFrontier(student, lambda: iter(IMAGES.split(24)), 1 << 20)
    for node in student.graph.body(LowBit):
        drives = torch.cat(list(frontier.drives(node)))
        expected: list[Tensor] = []
        watch = Watch(student.graph, [node], lambda _, value, seen=expected: seen.append(value))  # type: ignore[misc]
        for part in IMAGES.split(24):
            student.simulate(part)
            with torch.no_grad():
                watch.run(part)
        student.forget()
        assert torch.equal(drives, torch.cat(expected)), student.graph.name(node)


@cases(
    "name, most",
    itertools.product(RESIDUAL, (0, 8_000, 1 << 20)),
    quick=[*(("blocks", most) for most in (0, 8_000, 1 << 20)), ("no weights", 1 << 20), ("dense", 8_000)],
)
def test_spikes_are_kept_until_their_last_reader_is_done_and_no_longer(name: str, most: int) -> None:
    student = Student(residual(name), GENERIC, Dynamics(8))
    asked = 0

    def batches() -> Any:
        nonlocal asked
        asked += 1
        return iter(IMAGES[:24].split(8))

    frontier = SpikeFrontier(student, batches, most)
    layers = student.layers()
    for node in layers:
        drives = torch.cat(list(frontier.drives(node)))
        expected: list[Tensor] = []
        watch = Watch(student.graph, [node], lambda _, value, seen=expected: seen.append(value))  # type: ignore[misc]
        student.simulate(IMAGES[:24])
        with torch.no_grad():
            watch.run(IMAGES[:24])
        student.forget()
        torch.testing.assert_close(drives, expected[0], msg=student.graph.name(node))
    kept = list(map(set, frontier._kept.values()))
    if most == 0:
        assert asked == len(layers)
        assert not any(kept)
    elif most == 1 << 20:
        assert asked < len(layers) or len(layers) == 1
        assert kept == [read_by(student.graph, layers[-1])] * 3


def read_by(graph: Graph, node: Any) -> set[Any]:
    """The activations whose spikes a layer or sum reads, itself or through its weighted inputs."""
    return {
        one
        for read in node.all_input_nodes
        for one in ([read] if graph.is_a(read, RateReLU) else read_by(graph, read))
        if one.op != "placeholder"
    }


def test_thresholds_stay_at_levels_of_the_networks_own_and_below_its_upper_ends() -> None:
    passes = (*FRONT_END, FoldBatchNorm(), CalibrateThresholds(IMAGES), QuantizeWeights(2))
    found = []
    for last in (nn.Hardtanh(0, 0.2), nn.ReLU()):
        graph = Pipeline(passes).run(seeded(partial(clipped.network, clipped.Levels(1.5), last)))
        after = thresholds(CorrectLayers(IMAGES, V1, weights=False, timesteps=8)(graph).after)
        found.append([after[name] for name in thresholds(graph)])
    (levels, end), (same, free) = found
    assert levels == same == 1.5
    assert end <= 0.2 * (1 + 1e-6)
    assert free > 0.5


def thresholds(graph: Graph) -> dict[str, float]:
    return {graph.name(node): graph[node].threshold for node in graph.nodes(ClippedReLU)}  # type: ignore[misc]


@pytest.mark.parametrize("name", list(RESIDUAL))
def test_sums_of_several_inputs_are_corrected_as_one_layer_each(name: str) -> None:
    """Every channel of every layer with neurons is as active as in the float network; weighted inputs of sums stay."""
    graph = residual(name)
    layers = Student(graph.copy(), GENERIC, Dynamics(8)).layers()
    tops = {str(node.target): thresholds_behind(graph)[str(node.target)] for node in layers}
    wanted = mean_activations(float_form(graph), tops, spiking=False)
    after = CorrectLayers(IMAGES, GENERIC, weights=False, thresholds=False, timesteps=8)(graph).after
    found = mean_activations(after, tops, spiking=True, chip=GENERIC)
    for layer, mean in wanted.items():
        assert float((found[layer] - mean).abs().mean()) < 0.07 * float(mean.mean()), layer  # whole numbers
    for node in after.body(LowBit):
        if after.name(node) not in tops:
            one, other = (before_or_after[after.name(node)].state_dict() for before_or_after in (graph, after))
            assert all(torch.equal(one[key], other[key]) for key in one), after.name(node)


@pytest.mark.filterwarnings("ignore:the spiking network cannot be saved", "ignore:2-bit weights without fine-tuning")
def test_a_corrected_residual_network_is_closer_to_the_float_network() -> None:
    model, held_out = RESIDUAL["blocks"](), images(64, seed=9)
    expected = model(held_out)
    errors = []
    for corrected in (None, "biases"):
        snn = fxsnn.convert(model, target="generic", bits=2, timesteps=8, calibration_data=IMAGES, correction=corrected)
        errors.append(float((snn(held_out) - expected).detach().square().mean()))
    assert errors[1] < errors[0] / 4
