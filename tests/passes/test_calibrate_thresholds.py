"""Thresholds from data by three methods, independent of the batches' order, and without data from statistics."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import fxsnn
from fxsnn.errors import CalibrationWarning, DataError, ModelError, OptionError
from fxsnn.graph import Graph
from fxsnn.layers import Bound, BoundedReLU, ClippedReLU, QuantizedInput
from fxsnn.numerics import Dynamics, steady_spike_counts
from fxsnn.passes import CalibrateThresholds, Canonicalize, FoldBatchNorm, QuantizeWeights
from tests.nets import CONVERTIBLE, Small, images, seeded
from tests.sharing import cases


def prepared(model: nn.Module) -> Graph:
    return FoldBatchNorm()(Canonicalize()(fxsnn.capture(model)).after).after


@functools.cache
def small() -> Graph:
    """In front of the pass, which leaves it as it is."""
    return prepared(seeded(Small))


def thresholds(graph: Graph) -> dict[str, float]:
    return {graph.name(node): graph[node].threshold for node in graph.nodes(ClippedReLU)}  # type: ignore[misc]


def calibrated(data: Any, model: nn.Module | None = None, **options: Any) -> Graph:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CalibrationWarning)
        return CalibrateThresholds(data, **options)(small() if model is None else prepared(model)).after


def activations(model: nn.Module, name: str, data: Tensor) -> Tensor:
    kept: list[Tensor] = []
    handle = model.get_submodule(name).register_forward_hook(lambda _m, _i, output: kept.append(output.detach()))
    model(data)
    handle.remove()
    return kept[0]


def unit_of(graph: Graph) -> float:
    """The step of the input."""
    (node,) = graph.nodes(QuantizedInput)
    quantized: Any = graph[node]
    return float(quantized.unit)


DATA = images(32)


@pytest.mark.parametrize("layer", ["relu1", "relu2", "relu3"])
def test_max_is_the_largest_activation(layer: str) -> None:
    expected = float(activations(seeded(Small), layer, DATA).max())
    assert thresholds(calibrated(DATA, method="max"))[layer] == pytest.approx(expected, rel=1e-5)


@cases("percentile", [50.0, 90.0, 99.0, 99.9, 100.0], quick=(50.0, 99.9, 100.0))
def test_percentile_is_that_of_all_activations(percentile: float) -> None:
    values = activations(seeded(Small), "relu1", DATA).numpy()
    expected = np.percentile(values, percentile)
    found = thresholds(calibrated(DATA, percentile=percentile))["relu1"]
    # Where the percentile is 0, the rare activations above it are all that counts.
    assert found == pytest.approx(expected if expected > 0 else values.max(), rel=5e-3)


def test_mse_costs_no_more_than_any_percentile() -> None:
    values = activations(seeded(Small), "relu2", DATA).double()

    def cost(threshold: float) -> float:
        step = threshold / 8
        return float((values - (values.clamp(max=threshold) / step + 0.5).floor() * step).square().sum())

    found = thresholds(calibrated(DATA, method="mse", levels=8))["relu2"]
    others = [thresholds(calibrated(DATA, percentile=p))["relu2"] for p in (90.0, 99.0, 99.9, 100.0)]
    assert cost(found) <= min(map(cost, others)) * 1.01


def test_mse_is_that_of_the_dynamics_that_the_network_will_have() -> None:
    values = activations(seeded(Small), "relu2", DATA).double()
    dynamics = Dynamics(8, "zero", 0)

    def cost(threshold: float) -> float:
        return float((values - steady_spike_counts(values / threshold, dynamics) * threshold / 8).square().sum())

    own = thresholds(calibrated(DATA, method="mse", levels=8, reset="zero", initial_membrane=0))["relu2"]
    other = thresholds(calibrated(DATA, method="mse", levels=8))["relu2"]
    assert cost(own) < cost(other)
    told = fxsnn.pipeline(target="hw_v1.0", bits=4, timesteps=8, reset="zero", initial_membrane=0, calibration="mse")
    assert "levels=8, input_bits=8, progress=False, reset='zero', initial_membrane=0" in str(told)


@pytest.mark.parametrize("method", ["max", "percentile", "mse"])
def test_the_order_of_the_batches_does_not_matter(method: str) -> None:
    batches = list(DATA.split(6))
    forward = thresholds(calibrated(batches, method=method))
    assert forward == thresholds(calibrated(batches[::-1], method=method))
    assert forward == thresholds(calibrated(iter(batches[3:] + batches[:3]), method=method))


@pytest.mark.parametrize(
    "data",
    [
        DATA,
        (DATA, torch.zeros(32)),
        [DATA],
        DataLoader(TensorDataset(DATA, torch.zeros(32)), batch_size=32),
        ((part, 0) for part in [DATA]),
    ],
    ids=["tensor", "pair", "list", "loader", "generator"],
)
def test_data_come_in_any_of_the_usual_forms(data: Any) -> None:
    assert thresholds(calibrated(data))["relu1"] == pytest.approx(thresholds(calibrated(DATA))["relu1"], rel=1e-6)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "calibration data is empty"),
        (DataLoader(TensorDataset(DATA[:0])), "calibration data is empty"),
        (DATA[:0], "calibration data is empty"),
        (3, "calibration data is a int"),
        (DATA[0], r"images have shape \[3, 12, 12\]; expected \[N, 3, H, W\]"),
        ([DATA[:, :1]], r"that is 1 channels; expected \[N, 3, H, W\]"),
        ([DATA.int()], "images are torch.int32"),
        (["a.png"], "images are a str"),
        ([DATA * float("nan")], "images contain NaN"),
        ([DATA * float("inf")], "images contain|infinite"),
        ([images(size=5)], "does not accept calibration images of shape"),
    ],
)
def test_data_that_do_not_fit_are_refused(data: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        calibrated(data)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "median"}, "calibration method is 'median'; allowed are max, percentile, mse"),
        ({"percentile": 0.0}, "percentile is 0.0"),
        ({"percentile": 101.0}, "percentile is 101.0"),
        ({"input_bits": 1}, "input_bits is 1; allowed are 2 to 16"),
        ({"input_bits": True}, "input_bits is True"),
        ({"levels": 0}, "timesteps is 0"),
        ({"reset": "soft"}, "reset is 'soft'"),
    ],
)
def test_options_that_are_not_allowed_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        CalibrateThresholds(**options)


class TestTheInput:
    @pytest.mark.parametrize("method", ["max", "percentile", "mse"])
    def test_its_step_lets_the_largest_pixel_of_ordinary_images_have_the_largest_code(self, method: str) -> None:
        bright = torch.rand(DATA.shape) - 0.25
        assert unit_of(calibrated(bright, method=method)) == float(bright.abs().max()) / 127

    @pytest.mark.parametrize("bits", [3, 8])
    def test_with_max_it_does_so_for_any_images(self, bits: int) -> None:
        largest = float(DATA.abs().max()) / ((1 << (bits - 1)) - 1)
        assert unit_of(calibrated(DATA, method="max", input_bits=bits)) == largest
        assert unit_of(calibrated(DATA, input_bits=bits)) < largest  # the tails of noise are clipped

    def test_without_data_it_reaches_to_four_standard_deviations(self) -> None:
        assert unit_of(calibrated(None)) == pytest.approx(4 / 127)
        assert unit_of(calibrated(None, input_bits=4)) == pytest.approx(4 / 7)

    def test_of_images_that_are_all_zero_it_is_one(self, convert: Any) -> None:
        black = torch.zeros_like(DATA)
        assert unit_of(calibrated(black)) == 1
        snn = convert(seeded(Small), calibration_data=black)
        assert bool(snn(black).isfinite().all())

    def test_it_can_stay_analog(self) -> None:
        assert not calibrated(DATA, input_bits=None).nodes(QuantizedInput)


class TestReports:
    def test_a_silent_layer_is_named(self) -> None:
        model = seeded(Small)
        with torch.no_grad():
            model.hidden.weight.zero_()
            model.hidden.bias.fill_(-1)
        with pytest.warns(CalibrationWarning, match="hidden is silent"):
            CalibrateThresholds(DATA)(prepared(model))

    def test_a_saturated_layer_is_named(self) -> None:
        model = seeded(Small)
        with torch.no_grad():
            model.hidden.weight.zero_()
            model.hidden.bias.fill_(3)
        with pytest.warns(CalibrationWarning, match=r"hidden is saturated: 100% of its activations"):
            CalibrateThresholds(DATA)(prepared(model))

    def test_an_input_that_rounds_most_of_the_images_to_zero_is_named_and_the_advice_helps(self) -> None:
        """A stuck pixel in every frame: it may be what the network reads, so it stays in range."""
        stuck = torch.rand(32, 3, 12, 12)
        stuck[:, 0, 3, 3] = 1000.0
        with pytest.warns(CalibrationWarning) as told:
            CalibrateThresholds(stuck)(small())
        message = str(told[0].message)
        assert "the input: 100% of the numbers of the images that are not zero round to zero, at 8 bits" in message
        assert "range from -1000 to 1000; half of them are below 0.5" in message
        assert "the largest is 1000; use input_bits=11, or take hot pixels and other outliers off the images" in message
        with pytest.warns(CalibrationWarning, match="at 10 bits"):
            CalibrateThresholds(stuck, input_bits=10)(small())
        CalibrateThresholds(stuck, input_bits=11)(small())  # any warning is an error here
        stuck[:, 0, 3, 3] = 0.5
        CalibrateThresholds(stuck)(small())

    def test_an_input_that_clips_many_numbers_is_named(self) -> None:
        """One frame of sixteen was not scaled to 0..1."""
        mixed = torch.rand(32, 3, 12, 12)
        mixed[::16] *= 255
        with pytest.warns(
            CalibrationWarning, match=r"the input: 5\.\d% of .* clipped from more than 2 times the range"
        ):
            CalibrateThresholds(mixed)(small())

    def test_where_no_width_helps_it_says_so(self) -> None:
        stuck = torch.rand(32, 3, 12, 12)
        stuck[:, 0, 3, 3] = 1e6
        with pytest.warns(CalibrationWarning, match=r"; no input_bits up to 16 helps; take hot pixels"):
            CalibrateThresholds(stuck)(small())

    def test_max_is_told_of_what_would_do_without_more_bits(self) -> None:
        hot = torch.rand(32, 3, 12, 12)
        hot[5, 0, 3, 3] = 1000.0
        with pytest.warns(CalibrationWarning, match=r"use input_bits=11, or use method 'percentile' or 'mse', which"):
            CalibrateThresholds(hot, method="max")(small())
        CalibrateThresholds(hot)(small())

    def test_a_healthy_network_is_not_spoken_about(self) -> None:
        CalibrateThresholds(DATA)(small())  # any warning is an error here


class TestWithoutData:
    @pytest.mark.parametrize("name", CONVERTIBLE)
    def test_every_network_gets_thresholds_and_a_warning(self, name: str) -> None:
        with pytest.warns(CalibrationWarning, match="derived without data"):
            graph = CalibrateThresholds()(prepared(seeded(CONVERTIBLE[name]))).after
        assert all(value > 0 for value in thresholds(graph).values())

    def test_behind_a_batch_norm_they_are_those_of_its_normal_distribution(self) -> None:
        model = seeded(Small)
        with torch.no_grad():
            model.norm1.weight.fill_(2)
            model.norm1.bias.fill_(1)
        found = thresholds(calibrated(None, model))["relu1"]
        assert found == pytest.approx(1 + 2 * 3.0902, rel=1e-2)  # the 99.9th percentile of N(1, 2^2)

    @pytest.mark.parametrize("norm", [True, False])
    def test_they_come_near_those_from_data(self, norm: bool) -> None:
        torch.manual_seed(0)
        model = Small(norm=norm, bias=not norm)
        if norm:  # give the statistics something to know
            model.train()
            for _ in range(50):
                model(torch.randn(64, 3, 12, 12))
        without, with_data = thresholds(calibrated(None, model.eval())), thresholds(calibrated(images(256), model))
        for layer, value in with_data.items():
            assert 0.5 < without[layer] / value < 3


def test_the_graph_before_stays() -> None:
    graph = small()
    text = graph.text()
    CalibrateThresholds(DATA)(graph)
    assert graph.text() == text


def test_a_second_calibration_takes_the_place_of_the_first() -> None:
    once = calibrated(DATA, method="max", input_bits=4)
    again = CalibrateThresholds(DATA, method="max", input_bits=4)(calibrated(DATA, percentile=50.0)).after
    assert thresholds(again) == thresholds(once)
    assert again.text() == once.text()


def test_a_network_that_spikes_has_no_thresholds_to_choose(convert: Any) -> None:
    graph = convert(seeded(Small), calibration_data=DATA).graph
    for one in (CalibrateThresholds(DATA), QuantizeWeights(2)):
        with pytest.raises(
            ModelError, match=r"conv1.*: it spikes already\. Use the graph from before SubstituteSpikes"
        ):
            one(graph)


def test_what_the_user_has_clipped_stays_clipped(convert: Any) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), ClippedReLU(0.05), nn.Flatten(), nn.Linear(400, 5)).eval()
    layer: Any = convert(model, calibration_data=DATA, calibration="max").get_submodule("0")
    assert float(layer.spike_value.mean()) == pytest.approx(0.05, rel=0.05)


def test_a_relu_behind_a_pooling_is_no_level_of_it() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AvgPool2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(100, 5)).eval()
    once = CalibrateThresholds(DATA, method="max")(Canonicalize()(fxsnn.capture(model)).after).after
    assert CalibrateThresholds(DATA, method="max")(once).after.text() == once.text()


class TestActivationsWithAnUpperEndOfTheirOwn:
    """The layers before have a bound each; the last one is a ReLU."""

    @staticmethod
    def model(*bounds: Bound) -> nn.Module:
        layers: list[nn.Module] = []
        for place, bound in enumerate(bounds):
            layers += [nn.Conv2d(4 if place else 3, 4, 3), BoundedReLU(bound)]
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * (12 - 2 * len(bounds)) ** 2, 5)).eval()

    @pytest.mark.parametrize("method", ["max", "percentile"])
    def test_it_is_the_threshold_where_the_data_reach_it(self, method: str) -> None:
        assert thresholds(calibrated(DATA, self.model(Bound(0.1)), method=method)) == {"1": 0.1}
        assert thresholds(calibrated(DATA, self.model(Bound(0.1)).bfloat16(), method=method)) == {"1": 0.1}
        assert thresholds(calibrated(DATA, self.model(Bound(0.1)), method=method, percentile=50)) == {"1": 0.1}

    @pytest.mark.parametrize("method", ["max", "percentile", "mse"])
    def test_it_is_not_where_activations_stay_below_it(self, method: str) -> None:
        model: Any = self.model(Bound(100.0))
        far = thresholds(calibrated(DATA, model, method=method))
        plain = nn.Sequential(model[0], nn.ReLU(), *model[2:])
        assert far == thresholds(calibrated(DATA, plain, method=method))
        assert far["1"] < 10

    def test_the_least_error_may_be_below_it_and_never_above(self) -> None:
        (found,) = thresholds(calibrated(DATA, self.model(Bound(0.9)), method="mse", levels=4)).values()
        assert 0.3 < found <= 0.9

    @pytest.mark.parametrize("method", ["max", "percentile", "mse"])
    @pytest.mark.parametrize("data", [DATA, DATA * 1e-3, torch.zeros_like(DATA), None])
    def test_with_levels_it_is_the_threshold_whatever_the_data(self, data: Tensor | None, method: str) -> None:
        assert thresholds(calibrated(data, self.model(Bound(3.0, 4)), method=method)) == {"1": 3.0}

    @pytest.mark.parametrize("method", ["max", "percentile", "mse"])
    def test_without_data_no_threshold_is_above_it(self, method: str) -> None:
        found = thresholds(calibrated(None, self.model(Bound(0.2), Bound(100.0)), method=method))
        assert found["1"] <= 0.2
        assert found["3"] < 1  # it sees that the layer before it ends
        if method != "mse":
            assert found["1"] == 0.2

    def test_to_saturate_there_is_no_trouble_and_silence_is(self) -> None:
        CalibrateThresholds(DATA)(prepared(self.model(Bound(0.1))))  # any warning is an error here
        silent: Any = self.model(Bound(0.1))
        with torch.no_grad():
            silent[0].bias.fill_(-100)
        with pytest.warns(CalibrationWarning, match="0 is silent"):
            CalibrateThresholds(DATA)(prepared(silent))

    def test_a_second_calibration_knows_it_again(self) -> None:
        once = calibrated(DATA, self.model(Bound(0.1), Bound(100.0), Bound(1.0, 4)), method="max")
        again = CalibrateThresholds(DATA * 10, method="mse")(once).after
        assert thresholds(again)["5"] == 1.0
        assert thresholds(again)["1"] <= 0.1
        assert CalibrateThresholds(DATA, method="max")(again).after.text() == once.text()


# Images far out of range ----------------------------------------------------------------------------------------------


def with_hot_pixels() -> tuple[Tensor, Tensor]:
    """Images, and the same with three pixels of 1,000."""
    clean = torch.rand(48, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    hot = clean.clone()
    hot[[0, 7, 14], 0, 3, [1, 2, 3]] = 1_000
    return clean, hot


@pytest.mark.parametrize("method", ["percentile", "mse", "auto"])
def test_thresholds_are_those_of_images_as_the_input_clips_them(method: str) -> None:
    clean, hot = with_hot_pixels()
    model = seeded(lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(400, 5)))
    found = []
    for data in (clean, hot):
        graph = CalibrateThresholds(data, method)(fxsnn.capture(model)).after
        (node,) = graph.nodes(ClippedReLU)
        clipped = graph[node]
        assert isinstance(clipped, ClippedReLU)
        found.append(clipped.threshold)
    assert found[0] <= found[1] < 2 * found[0]


def test_data_that_can_be_read_once_say_that_thresholds_are_those_of_all_numbers() -> None:
    _, hot = with_hot_pixels()
    model = seeded(lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(400, 5)))
    with pytest.warns(CalibrationWarning, match="since the data can be read only once; give a tensor"):
        CalibrateThresholds(iter([hot]))(fxsnn.capture(model))
