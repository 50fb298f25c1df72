"""The spiking network: stateless, one call, T and reset at will, its inside on request."""

from __future__ import annotations

import copy
import json
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

import fxsnn
from fxsnn.errors import AccuracyWarning, DataError, OptionError, UnknownName
from fxsnn.layers import Spiking
from tests.nets import HandWritten, OneRelu, Small, images, seeded
from tests.sharing import cases, converted_once


@converted_once
def converted(model: nn.Module | None = None, **options: Any) -> fxsnn.SpikingNetwork:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fxsnn.FxsnnWarning)
        usual: dict[str, Any] = {"target": "hw_v1.0", "bits": 3, "calibration_data": images(32), "correction": None}
        return fxsnn.convert(model or seeded(Small), **{**usual, **options})


SNN = converted()


class TestACall:
    def test_keeps_nothing_for_the_next_one(self) -> None:
        first = SNN(images())
        SNN(images(seed=9))
        assert torch.equal(SNN(images()), first)

    def test_gives_each_image_the_same_logits_in_any_batch(self) -> None:
        many = images(40)
        together = SNN(many)
        alone = torch.cat([SNN(one[None]) for one in many])
        torch.testing.assert_close(together, alone, rtol=1e-6, atol=1e-6)

    def test_gives_the_same_from_many_threads_at_once(self) -> None:
        expected = SNN(images())
        with ThreadPoolExecutor(4) as pool:
            assert all(torch.equal(result, expected) for result in pool.map(SNN, [images()] * 12))

    @pytest.mark.parametrize("call", ["forward", "early_readout", "simulate", "count_spikes"])
    def test_warns_of_another_range_than_that_of_calibration_once(self, call: str) -> None:
        snn = copy.deepcopy(SNN)
        getattr(snn, call)(images())
        with pytest.warns(AccuracyWarning, match=r"images range from .* but the network was calibrated for .* clipped"):
            getattr(snn, call)(images() * 255)
        getattr(snn, call)(images() * 255)
        pickle.loads(pickle.dumps(snn))(images() * 255)
        with pytest.warns(AccuracyWarning, match="next to nothing is left"):
            getattr(copy.deepcopy(SNN), call)(images() / 255)

    def test_says_nothing_of_ranges_where_the_input_is_analog(self) -> None:
        converted(input_bits=None)(images() * 255)

    def test_takes_no_images_at_all(self) -> None:
        assert SNN(images(4)[:0]).shape == (0, 5)

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            (images()[0], r"images have shape \[3, 12, 12\]; expected \[N, 3, H, W\]"),
            (images(channels=1), "that is 1 channels"),
            ((images() * 50).to(torch.uint8), "images are torch.uint8; .*normalised"),
            (images().numpy(), "images are a ndarray"),
            (images() * float("nan"), "images contain NaN"),
        ],
    )
    def test_refuses_what_cannot_be_images_for_it(self, given: Any, message: str) -> None:
        with pytest.raises(DataError, match=message):
            SNN(given)

    @pytest.mark.parametrize(
        ("engine", "message"),
        [
            ("auto", "hidden reads 128 features; with images of this size conv2 gives 32|it was made with"),
            ("torch", r"does not accept images of shape \[\d, 3, 9, 9\] \(it was made with \[3, 12, 12\]\): "),
        ],
    )
    @pytest.mark.parametrize("run", ["__call__", "early_readout", "simulate", "profile"])
    def test_refuses_images_of_another_size(self, run: str, engine: str, message: str) -> None:
        snn = copy.deepcopy(SNN)
        snn.engine = engine
        with pytest.raises(DataError, match=message):
            getattr(snn, run)(images(size=9))

    def test_clips_pixels_beyond_the_range_of_the_input(self) -> None:
        snn, huge = copy.deepcopy(SNN), images().sign() * 1e4
        with pytest.warns(AccuracyWarning, match="100% of their numbers"):
            clipped = snn(huge)
        assert torch.equal(clipped, snn(huge * 2))

    def test_softmax_of_the_tail_is_applied(self) -> None:
        with torch.no_grad():
            probabilities = converted(seeded(OneRelu))(images())
        torch.testing.assert_close(probabilities.sum(1), torch.ones(4))


class TestTimesteps:
    def test_can_be_set_after_conversion(self) -> None:
        snn, direct = (converted(timesteps=steps, calibration="percentile", correction=None) for steps in (4, 32))
        snn.timesteps = 32
        assert torch.equal(snn(images()), direct(images()))
        assert snn.report.timesteps == 32

    @pytest.mark.parametrize("value", [0, -1, 2.5, "8"])
    def test_must_be_whole_and_positive_and_stay_when_they_are_not(self, value: Any) -> None:
        snn = converted(timesteps=4)
        with pytest.raises(OptionError, match="timesteps is"):
            snn.timesteps = value
        assert snn.timesteps == 4
        assert snn(images()).shape == (4, 5)


def test_the_reset_is_not_ignored() -> None:
    snn = converted(timesteps=16, calibration="percentile", correction=None)
    subtraction = snn.simulate(images()).spikes["conv1"]
    snn.reset = "zero"
    zero = snn.simulate(images()).spikes["conv1"]
    assert zero.sum() < subtraction.sum()
    assert "throws away" in str(snn.report)
    assert torch.equal(
        converted(timesteps=16, calibration="percentile", correction=None, reset="zero")
        .simulate(images())
        .spikes["conv1"],
        zero,
    )


def test_the_start_of_the_membranes_is_not_ignored() -> None:
    snn = converted()
    half = snn.simulate(images()).spikes["conv1"]
    snn.initial_membrane = 0
    assert snn.simulate(images()).spikes["conv1"].sum() < half.sum()


class TestSimulate:
    @pytest.mark.parametrize("engine", ["auto", "torch"])
    @pytest.mark.parametrize("run", ["simulate", "count_spikes"])
    def test_needs_images(self, run: str, engine: str) -> None:
        with pytest.raises(DataError, match="there are no images to look at"):
            getattr(converted(engine=engine), run)(images(0))

    def test_sees_a_layer_that_was_put_into_the_graph(self) -> None:
        snn = converted()
        before = snn(images())
        node = next(node for node in snn.graph.nodes(Spiking) if node.target == "conv2")
        layer: Any = copy.deepcopy(snn.graph[node])
        layer.threshold.fill_(1 << 17)
        layer.leak.zero_()
        snn.graph.replace(node, layer)
        assert not torch.equal(snn(images()), before)
        assert not snn.simulate(images()).spikes["conv2"].any()

    def test_logits_after_each_step_are_those_of_a_run_of_that_length(self) -> None:
        snn = converted(timesteps=12)
        over_time = snn.simulate(images()).logits
        for timesteps in (1, 5, 12):
            snn.timesteps = timesteps
            torch.testing.assert_close(over_time[timesteps - 1], snn(images()), rtol=1e-6, atol=1e-6)

    def test_shows_spikes_counts_and_rates_of_every_layer(self) -> None:
        run = SNN.simulate(images())
        assert list(run.spikes) == ["conv1", "pool", "conv2", "hidden"]
        assert run.spikes["conv1"].shape == (16, 4, 8, 12, 12)
        assert set(run.spikes["conv1"].unique().tolist()) <= {0.0, 1.0}
        assert torch.equal(run.spike_counts["hidden"], run.spikes["hidden"].sum(0))
        assert run.firing_rates["conv2"] == pytest.approx(float(run.spike_counts["conv2"].mean()) / 16)
        assert run.membranes == {}

    def test_prints_a_line_and_no_tensors(self) -> None:
        run = SNN.simulate(images(1))
        rates = ", ".join(f"{name} {rate:.3f}" for name, rate in run.firing_rates.items())
        assert repr(run) == f"Run of 1 image for T=16; firing rates: {rates}"

    def test_shows_membranes_on_request_and_their_range_always(self) -> None:
        run = SNN.simulate(images(), membranes=True)
        assert run.membranes["hidden"].shape == (16, 4, 16)
        low, high = run.membrane_range["hidden"]
        assert (low, high) == (float(run.membranes["hidden"].min()), float(run.membranes["hidden"].max()))

    def test_decoding_the_counts_gives_the_logits(self) -> None:
        run = SNN.simulate(images())
        hidden: Any = SNN.get_submodule("hidden")
        activations = run.spike_counts["hidden"].double() / 16 * hidden.spike_value
        fc = seeded(Small).fc
        torch.testing.assert_close(fc(activations.float()), SNN(images()), rtol=1e-5, atol=1e-5)


class TestAsAModule:
    def test_casting_it_changes_no_spike(self) -> None:
        snn = converted()
        before = snn.simulate(images()).spikes
        snn.half()
        after = snn.simulate(images()).spikes
        assert snn(images()).dtype == torch.float16
        assert all(torch.equal(before[name], after[name]) for name in before)

    def test_casting_it_leaves_one_tensor_of_each_name(self) -> None:
        class Scaled(Small):
            scale: torch.Tensor

            def __init__(self) -> None:
                super().__init__()
                self.register_buffer("scale", torch.ones(1))
                self.offset = nn.Parameter(torch.ones(1))

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return super().forward(x) * self.scale + self.offset

        snn = converted(seeded(Scaled))
        snn(images())
        snn.double()
        with torch.no_grad():
            snn.get_buffer("scale").fill_(0)
            snn.get_parameter("offset").fill_(3)
        assert bool((snn(images()) == 3).all())

    def test_casting_it_reaches_a_layer_that_was_put_into_the_graph(self) -> None:
        snn = converted()
        snn.graph.replace(snn.graph.nodes(nn.Linear)[-1], seeded(Small, 3).fc)
        expected = snn(images())
        torch.testing.assert_close(snn.double()(images()).float(), expected)

    @cases("assign", [True, False], quick=1)
    @cases("engine", ["auto", "torch"], quick=1)
    def test_its_state_dict_has_all_tensors_of_the_tail(self, engine: str, assign: bool) -> None:
        class Scale(nn.Module):
            def __init__(self, by: float) -> None:
                super().__init__()
                self.by = nn.Parameter(torch.full((5,), by))

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return x * self.by

        class Scaled(Small):
            def __init__(self, by: float) -> None:
                super().__init__()
                self.scale, self.offset = Scale(by), nn.Parameter(torch.full((5,), by))

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return self.scale(super().forward(x)) + self.offset

        snn, other = (converted(seeded(partial(Scaled, by)), engine=engine) for by in (2.0, 3.0))
        assert not torch.equal(snn(images()), other(images()))
        snn.load_state_dict(other.state_dict(), assign=assign)
        assert torch.equal(snn(images()), other(images()))
        snn(images()).sum().backward()
        tail = dict(snn.named_parameters())
        assert set(tail) == {"fc.weight", "fc.bias", "scale.by", "offset"}
        assert all(parameter.grad is not None for parameter in tail.values())

    def test_copies_are_independent(self) -> None:
        other = copy.deepcopy(SNN)
        other.timesteps = 3
        assert SNN.timesteps == 16
        assert other.simulate(images()).logits.shape[0] == 3

    def test_its_target_may_be_named(self) -> None:
        assert fxsnn.SpikingNetwork(SNN.graph, "generic").report.target == "generic"
        with pytest.raises(UnknownName, match="unknown target 'hw_v9'"):
            fxsnn.SpikingNetwork(SNN.graph, "hw_v9")

    def test_its_device_is_where_its_tensors_are(self) -> None:
        assert SNN.device == torch.device("cpu")
        assert copy.deepcopy(SNN).to("meta").device == torch.device("meta")

    def test_it_is_in_evaluation_mode_and_says_what_it_is(self) -> None:
        assert not SNN.training
        assert "target=hw_v1.0, timesteps=16, reset='subtraction'" in repr(SNN)

    def test_layers_are_those_of_the_public_names(self) -> None:
        snn = converted(seeded(HandWritten))
        kinds = [type(module).__name__ for module in snn.modules() if isinstance(module, Spiking)]
        assert kinds == ["SpikeConv2d", "SpikeAvgPool2d", "SpikeConv2d", "SpikeAvgPool2d", "SpikeLinear"]


@pytest.mark.parametrize("engine", ["torch", "auto"])
def test_counts_are_those_of_the_spikes_a_few_images_at_a_time(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    snn, many = converted(engine=engine), images(40)
    expected = snn.simulate(many).spike_counts
    monkeypatch.setattr("fxsnn.network.FRAMES_AT_ONCE", 7 * snn.timesteps)
    found = snn.count_spikes(many)
    assert list(found) == list(expected)
    for name, counts in found.items():
        assert counts.dtype == torch.int32
        assert torch.equal(counts, expected[name].int())


class TestReport:
    def test_has_a_row_for_every_spiking_layer_and_names_the_tail(self) -> None:
        report = SNN.report
        assert [(row.layer, row.kind) for row in report.layers] == [
            ("conv1", "SpikeConv2d"),
            ("pool", "SpikeAvgPool2d"),
            ("conv2", "SpikeConv2d"),
            ("hidden", "SpikeLinear"),
        ]
        assert report.tail == ("fc",)
        conv = report.layers[2]
        assert (conv.kernel_size, conv.in_channels, conv.limit, conv.bits) == ((3, 3), 8, 37, 3)

    def test_is_text_html_and_plain_data(self) -> None:
        assert "conv2" in str(SNN.report)
        assert ">conv2</td>" in SNN.report._repr_html_()
        assert json.loads(json.dumps(SNN.report.to_dict()))["layers"][0]["layer"] == "conv1"
