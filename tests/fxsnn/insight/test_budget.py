"""The error budget: it names what was spoiled, and its parts add up."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import fxsnn
from fxsnn.errors import DataError, ModelError, OptionError
from fxsnn.insight import accuracy
from fxsnn.insight.effects import EFFECTS
from fxsnn.layers import ClippedReLU, Spiking
from tests.nets import OneRelu, Small, images, pool_neurons, seeded
from tests.random_networks import quiet
from tests.sharing import cases, converted_once

Convert = Callable[..., fxsnn.SpikingNetwork]
FINE = {"bits": 4, "timesteps": 64, "calibration_data": images(64), "calibration": "max"}
MODEL = seeded(lambda: Small(norm=False, bias=True))


@converted_once
def usual() -> fxsnn.SpikingNetwork:
    """The network with nothing spoiled."""
    with quiet():
        return fxsnn.convert(MODEL, target="hw_v1.0", bits=2, correction=None, calibration_data=images(16))


def spoiled_threshold(layer: str) -> fxsnn.SpikingNetwork:
    """The network with one threshold ten times too low."""
    options: dict[str, Any] = {**FINE, "target": "hw_v1.0"}
    first, rest = fxsnn.pipeline(**options).split("calibrate-thresholds")
    graph = first.run(MODEL)
    node = next(iter(graph.calls(layer)[0].users))
    clipped: Any = graph[node]
    graph.replace(node, ClippedReLU(clipped.threshold / 10))
    return fxsnn.SpikingNetwork(rest.run(graph), fxsnn.get_target("hw_v1.0"))


@functools.cache
def spoiled_budget() -> fxsnn.ErrorBudget:
    return fxsnn.error_budget(MODEL, spoiled_threshold("conv2"), images(16, seed=3))


class TestTheCulprit:
    @cases("layer", ["conv2", "conv1", "hidden"], quick=1)
    def test_a_threshold_ten_times_too_low_is_clipping_in_that_layer(self, layer: str) -> None:
        worst = fxsnn.error_budget(MODEL, spoiled_threshold(layer), images(16, seed=3)).worst
        assert (worst.layer, worst.effect) == (layer, "clipping")
        assert "higher percentile" in worst.advice

    @cases("layer", ["conv1", "conv2", "hidden"], quick=1)
    def test_one_bit_in_one_layer_is_weights_in_that_layer(self, convert: Convert, layer: str) -> None:
        snn = convert(MODEL, **{**FINE, "bits": {layer: 1}})
        worst = fxsnn.error_budget(MODEL, snn, images(16, seed=3)).worst
        assert (worst.layer, worst.effect) == (layer, "weights")
        more, correct, tune = worst.advice.split(", or ")
        assert more == "Its 1-bit weights say too little: give it more bits (the target allows 4)"
        assert correct == "correct the layers (correction='auto', no labels needed)"
        assert tune.startswith("fine-tune")

    def test_what_was_corrected_already_is_not_advised(self, convert: Convert) -> None:
        snn = convert(MODEL, **{**FINE, "bits": {"conv2": 1}, "correction": "both"})
        worst = fxsnn.error_budget(MODEL, snn, images(16, seed=3)).worst
        assert worst.effect == "weights"
        assert "correct" not in worst.advice

    @cases("bits, advice", [(1, "; give it more bits (the target allows 4), or fine"), (4, "; fine")], quick=1)
    def test_after_fine_tuning_it_says_that_weights_may_have_moved(
        self, convert: Convert, bits: int, advice: str
    ) -> None:
        data = (images(32), torch.arange(32) % 5)
        finetune = fxsnn.Finetune(data, epochs=3, lr=0.1, gradient_norm=None)
        worst = fxsnn.error_budget(MODEL, convert(MODEL, **{**FINE, "bits": bits, "finetune": finetune}), data[0]).worst
        assert worst.effect == "weights"
        assert "Fine-tuning has moved them, which does no harm where the stages keep the accuracy" in worst.advice
        assert advice in worst.advice

    def test_two_timesteps_are_timesteps(self, convert: Convert) -> None:
        worst = fxsnn.error_budget(MODEL, convert(MODEL, **{**FINE, "timesteps": 2}), images(16, seed=3)).worst
        assert worst.effect == "timesteps"
        assert "Rates are too coarse at T=2: use a larger T than 2, or fine-tune" in worst.advice

    def test_what_costs_spikes_is_advised_against_first(self, convert: Convert) -> None:
        snn = convert(MODEL, **{**FINE, "timesteps": 8, "reset": "zero", "initial_membrane": 0})
        advice = fxsnn.error_budget(MODEL, snn, images(16, seed=3)).worst.advice
        assert "start membranes at half a threshold (initial_membrane=0.5), or reset by subtraction, or use" in advice

    @cases(
        "spoiled, effect, words, cure",
        [
            ({"bits": {"conv2": 1}}, "weights", "give it more bits (the target allows 4)", {"bits": 4}),
            ({"bits": 1}, "weights", "correct the layers (correction='auto', ", {"bits": 1, "correction": "auto"}),
            ({"percentile": 80}, "clipping", "a higher percentile", {"percentile": 99.9}),
            ({"percentile": 80}, "clipping", "or calibration='max'", {"calibration": "max"}),
            ({"timesteps": 2}, "timesteps", "use a larger T than 2", {"timesteps": 8}),
            ({"timesteps": 4, "initial_membrane": 0}, "timesteps", "(initial_membrane=0.5)", {"timesteps": 4}),
            ({"timesteps": 8, "reset": "zero"}, "timing", "reset by subtraction", {"timesteps": 8}),
        ],
        quick=0,
    )
    def test_who_follows_the_advice_gains_accuracy(
        self, convert: Convert, spoiled: Any, effect: str, words: str, cure: Any
    ) -> None:
        model, digits = fxsnn.datasets.digit_net(), fxsnn.datasets.load("digits")
        some, others = (torch.stack([part[i][0] for i in range(200)]) for part in (digits.train, digits.test))
        labels = torch.tensor([int(digits.test[i][1]) for i in range(200)])
        usual = {"bits": 4, "timesteps": 16, "calibration": "percentile", "calibration_data": some[:64]}
        snn, cured = (convert(model, **{**usual, **options}) for options in (spoiled, cure))
        worst = fxsnn.error_budget(model, snn, some[:64]).worst
        assert worst.effect == effect
        assert words in worst.advice
        assert accuracy(cured, [(others, labels)]) > accuracy(snn, [(others, labels)])

    def test_with_nothing_spoiled_little_is_lost(self, convert: Convert) -> None:
        budget = fxsnn.error_budget(MODEL, convert(MODEL, **{**FINE, "timesteps": 256}), images(16, seed=3))
        assert budget.worst.size < 0.2


class TestTheParts:
    def test_shares_add_up_to_the_distance(self) -> None:
        for row in spoiled_budget().layers:
            assert row.inherited + sum(row.shares.values()) == pytest.approx(row.distance)

    def test_every_layer_has_its_effects(self) -> None:
        local = list(EFFECTS)[1:]
        assert [(row.layer, list(row.sizes)) for row in spoiled_budget().layers] == [
            ("conv1", local),
            ("pool", ["timesteps", "timing"]),
            ("conv2", local),
            ("hidden", local),
        ]

    def test_under_the_steady_drive_of_the_first_layer_timing_is_nothing(self) -> None:
        assert spoiled_budget().layers[0].sizes["timing"] == pytest.approx(0, abs=1e-9)
        assert spoiled_budget().layers[2].sizes["timing"] > 0.01

    def test_the_distance_is_that_of_the_activations(self) -> None:
        snn = spoiled_threshold("conv2")
        pairs = fxsnn.layer_activations(MODEL, snn, images(16, seed=3))
        for row in spoiled_budget().layers:
            analog, spiking = pairs[row.layer]
            assert row.distance == pytest.approx(float((spiking - analog).norm() / analog.norm()))

    @pytest.mark.filterwarnings("ignore::fxsnn.CalibrationWarning")
    def test_by_hand(self) -> None:
        """Activations 0.5, 1 and 4 against a threshold of 2 and T=4."""
        model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU(), nn.Flatten(), nn.Linear(3, 2)).eval()
        conv: Any = model[0]
        with torch.no_grad():
            conv.weight.fill_(1.0)
            conv.bias.zero_()
        x = torch.tensor([0.4, 1.0, 4.0]).view(1, 1, 1, 3)
        first, rest = fxsnn.pipeline(target="generic", bits=2, timesteps=4, input_bits=None, calibration_data=x).split(
            "calibrate-thresholds"
        )
        graph = first.run(model)
        graph.replace(graph.nodes(ClippedReLU)[0], ClippedReLU(2.0))
        snn = fxsnn.SpikingNetwork(rest.run(graph), fxsnn.get_target("generic"))
        (row,) = fxsnn.error_budget(model, snn, x).layers
        norm = (0.4**2 + 1 + 16) ** 0.5
        assert row.inherited == 0
        assert row.sizes["clipping"] == pytest.approx(2 / norm)  # 4 becomes 2
        assert row.sizes["weights"] == pytest.approx(0)
        assert row.sizes["rounding"] == pytest.approx(0, abs=1e-3)
        assert row.sizes["timesteps"] == pytest.approx(0.1 / norm, rel=1e-2)  # 0.4 becomes a rate of 1/4
        assert row.sizes["timing"] == pytest.approx(0)
        assert row.distance == pytest.approx((2**2 + 0.1**2) ** 0.5 / norm, rel=1e-2)
        assert row.cause == "clipping"


class TestStages:
    def test_with_labels_they_have_accuracies(self, convert: Convert) -> None:
        x, labels = images(20), torch.arange(20) % 5
        snn = convert(MODEL, calibration_data=x)
        budget = fxsnn.error_budget(MODEL, snn, DataLoader(TensorDataset(x, labels), 7))
        assert [stage.name for stage in budget.stages] == ["ann", *EFFECTS]
        right = [100 * float((network(x).argmax(1) == labels).double().mean()) for network in (MODEL, snn)]
        assert budget.stages[0].accuracy == pytest.approx(right[0])
        assert budget.stages[-1].accuracy == pytest.approx(right[1])
        assert budget.stages[0].distance == 0
        assert budget.stages[0].agreement == 100
        same = 100 * float((snn(x).argmax(1) == MODEL(x).argmax(1)).double().mean())
        assert budget.stages[-1].agreement == pytest.approx(same)

    def test_batches_do_not_matter(self, convert: Convert) -> None:
        x = images(100)
        snn = convert(MODEL, calibration_data=x)
        whole, parts = fxsnn.error_budget(MODEL, snn, x), fxsnn.error_budget(MODEL, snn, x.split(33))
        assert whole.images == parts.images == 100
        for one, other in zip(whole.layers, parts.layers, strict=True):
            assert one.sizes == pytest.approx(other.sizes)

    def test_names_of_layers_may_be_any(self, convert: Convert) -> None:
        """One that is called like the neurons which the budget puts behind a pooling."""
        model = seeded(pool_neurons)
        snn = convert(model, calibration_data=images(16))
        budget = fxsnn.error_budget(model, snn, images())
        assert [row.layer for row in budget.layers] == ["conv", "pool", "pool_neurons"]
        assert budget.layers[1].sizes["timesteps"] > 0

    def test_images_of_any_shape_are_taken_without_a_word(
        self, convert: Convert, caplog: pytest.LogCaptureFixture
    ) -> None:
        model = seeded(lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(2 * 9 * 97, 5)))
        x = torch.randn(4, 1, 11, 99, generator=torch.Generator().manual_seed(0))
        snn = convert(model, calibration_data=x, example=x)
        caplog.clear()
        fxsnn.error_budget(model, snn, x)
        assert not caplog.records

    def test_an_analog_input_has_nothing_rounded(self, convert: Convert) -> None:
        budget = fxsnn.error_budget(MODEL, convert(MODEL, calibration_data=images(16), input_bits=None), images())
        assert budget.stages[1].distance == 0
        assert budget.layers[0].inherited == 0


class TestShowing:
    def test_as_text_html_and_plain_data(self) -> None:
        text = str(spoiled_budget())
        assert "worst: conv2, clipping (activations end at the threshold)" in text
        assert "+ timing" in text
        assert "conv2" in spoiled_budget()._repr_html_()
        assert json.loads(json.dumps(spoiled_budget().to_dict()))["worst"]["layer"] == "conv2"

    def test_as_a_picture_with_a_stack_of_bars_for_each_layer(self) -> None:
        axes = Figure().subplots()
        assert spoiled_budget().plot(axes) is axes
        assert len(axes.patches) == 4 * 6
        tops = [
            sum(patch.get_height() for patch in axes.patches[i::4])  # type: ignore[attr-defined]
            for i in range(4)
        ]
        assert tops == pytest.approx([100 * row.distance for row in spoiled_budget().layers])
        assert [text.get_text() for text in axes.get_xticklabels()] == ["conv1", "pool", "conv2", "hidden"]


class TestMistakes:
    def test_another_model_is_refused(self) -> None:
        snn = usual()
        with pytest.raises(OptionError, match="snn was not converted from this model: its layers are conv1, pool, "):
            fxsnn.error_budget(seeded(OneRelu), snn, images())
        wider = seeded(lambda: Small(norm=False, bias=True))
        wider.conv1, wider.conv2 = nn.Conv2d(3, 9, 3, padding=1), nn.Conv2d(9, 8, 3)
        with pytest.raises(
            OptionError, match=r"weights of conv1 have shape \[8, 3, 3, 3\], in the model \[9, 3, 3, 3\]"
        ):
            fxsnn.error_budget(wider, snn, images())

    def test_a_model_that_cannot_be_converted_is_refused(self, convert: Convert) -> None:
        with pytest.raises(ModelError):
            fxsnn.error_budget(nn.Sequential(nn.Conv2d(3, 2, 3)), convert(MODEL), images())

    def test_labels_that_do_not_fit_are_refused(self) -> None:
        snn, x = usual(), images(8)
        labels = torch.arange(8) % 5
        for wrong in ((x, labels[:4]), (x, labels.float()), [(x, "labels")]):
            with pytest.raises(DataError, match=r"labels are .*; expected a tensor of integers \[8\]"):
                fxsnn.error_budget(MODEL, snn, wrong)
        with pytest.raises(DataError, match="some batches have labels and some have none"):
            fxsnn.error_budget(MODEL, snn, [(x, labels), x])

    @pytest.mark.parametrize("wrong", [images(channels=1), images(size=9), images()[:0], [], 7])
    def test_what_are_no_images_for_it_are_refused(self, wrong: Any) -> None:
        with pytest.raises(DataError):
            fxsnn.error_budget(MODEL, usual(), wrong)

    def test_neither_network_is_changed(self) -> None:
        snn = usual()
        before = [tensor.clone() for tensor in (*MODEL.state_dict().values(), *snn.state_dict().values())]
        fxsnn.error_budget(MODEL, snn, images())
        after = (*MODEL.state_dict().values(), *snn.state_dict().values())
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
        assert [name for name, module in snn.named_children() if isinstance(module, Spiking)] == [
            "conv1", "pool", "conv2", "hidden",
        ]  # fmt: skip
