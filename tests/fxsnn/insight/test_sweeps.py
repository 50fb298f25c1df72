"""Every T from one simulation: accuracies are those of runs of that length, and so are the operations."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import fxsnn
from fxsnn.errors import DataError, OptionError
from fxsnn.insight import Sweep
from fxsnn.insight.sweeps import Point, _recommended
from tests.nets import Small, images, seeded

Convert = Callable[..., fxsnn.SpikingNetwork]
MODEL = seeded(Small)
X = images(50)
LABELS = MODEL(X).argmax(1)


@pytest.fixture
def snn(convert: Convert) -> fxsnn.SpikingNetwork:
    return convert(MODEL, bits=4, timesteps=3, calibration_data=X)


class TestAgainstRunsOfThatLength:
    def test_accuracy_and_operations(self, snn: fxsnn.SpikingNetwork) -> None:
        sweep = fxsnn.sweep(snn, (X, LABELS), timesteps=9)
        assert [point.timesteps for point in sweep.points] == list(range(1, 10))
        for timesteps in (1, 4, 9):
            snn.timesteps = timesteps
            totals = snn.profile(X).totals()
            point = sweep.points[timesteps - 1]
            right = 100 * float((snn(X).argmax(1) == LABELS).double().mean())
            assert point.accuracy == pytest.approx(right)
            assert point.synaptic_operations == pytest.approx(totals.synaptic_operations)
            assert point.input_operations == pytest.approx(totals.input_operations)
            assert point.latency == timesteps + 3  # four layers

    def test_the_network_is_left_as_it_is(self, snn: fxsnn.SpikingNetwork) -> None:
        fxsnn.sweep(snn, (X, LABELS), timesteps=5)
        assert snn.timesteps == 3

    def test_batches_do_not_matter(self, snn: fxsnn.SpikingNetwork) -> None:
        whole = fxsnn.sweep(snn, (X, LABELS), timesteps=5)
        parts = fxsnn.sweep(snn, DataLoader(TensorDataset(X, LABELS), 7), timesteps=5)
        for one, other in zip(whole.points, parts.points, strict=True):
            assert one.accuracy == pytest.approx(other.accuracy)
            assert one.synaptic_operations == pytest.approx(other.synaptic_operations)


class TestTheRecommendation:
    @pytest.mark.parametrize(
        ("accuracies", "lowest", "expected"),
        [
            ([50.0, 90.0, 95.0, 96.0], 90.0, 2),
            ([50.0, 95.0, 80.0, 96.0], 90.0, 4),  # a lucky T is none
            ([99.0, 99.0], 90.0, 1),
            ([50.0, 60.0], 90.0, None),
        ],
    )
    def test_is_the_smallest_from_which_on_all_are_good_enough(
        self, accuracies: list[float], lowest: float, expected: int | None
    ) -> None:
        assert _recommended(accuracies, lowest) == expected

    def test_is_held_against_the_ann_if_it_is_given(self, snn: fxsnn.SpikingNetwork) -> None:
        sweep = fxsnn.sweep(snn, (X, LABELS), timesteps=4, model=MODEL)
        assert (sweep.reference, sweep.reference_is_ann) == (100, True)
        assert "of the ANN" in sweep.verdict()

    def test_the_ann_is_left_as_it_is_and_seen_in_evaluation_mode(self, snn: fxsnn.SpikingNetwork) -> None:
        model = copy.deepcopy(MODEL).double().train()
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        assert fxsnn.sweep(snn, (X, LABELS), timesteps=2, model=model).reference == 100
        assert model.training
        assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())

    def test_logits_may_be_maps_of_one_pixel(self, convert: Convert) -> None:
        model = seeded(
            lambda: nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        )
        snn = convert(model, bits=4, timesteps=8, calibration_data=X)
        sweep = fxsnn.sweep(snn, (X, model(X).flatten(1).argmax(1)), timesteps=8, model=model)
        assert sweep.reference == 100
        right = float((snn(X).flatten(1).argmax(1) == model(X).flatten(1).argmax(1)).double().mean())
        assert sweep.points[-1].accuracy == pytest.approx(100 * right)

    def test_is_held_against_the_largest_t_otherwise(self, snn: fxsnn.SpikingNetwork) -> None:
        sweep = fxsnn.sweep(snn, (X, LABELS), timesteps=4, tolerance=100)
        assert sweep.reference == sweep.points[-1].accuracy
        assert sweep.recommended == 1
        assert "T=1 is the smallest from which on accuracy stays within 100 points" in sweep.verdict()

    def test_there_may_be_none(self) -> None:
        sweep = Sweep(100, (Point(1, 50.0, 1.0, 1.0, 2),), 99.0, True, 0.5, None)
        assert sweep.verdict().startswith("No T up to 1 is within 0.5 points of 99.00 % of the ANN: fine-tune")


class TestShowing:
    POINTS = tuple(Point(t, 80.0 + t, 1000.0 * t, 10.0 * t, t + 3) for t in range(1, 13))
    SWEEP = Sweep(400, POINTS, 92.0, False, 2.0, 10)

    def test_as_text_with_powers_of_two_the_recommended_and_the_last(self) -> None:
        assert [row[0] for row in self.SWEEP.rows()] == ["T", "1", "2", "4", "8", "10", "12"]
        assert "recommended" in str(self.SWEEP)
        assert "standard error of an accuracy: 1.36 points" in str(self.SWEEP)

    def test_as_html_and_plain_data(self) -> None:
        assert "recommended" in self.SWEEP._repr_html_()
        assert json.loads(json.dumps(self.SWEEP.to_dict()))["recommended"] == 10

    def test_as_a_picture(self) -> None:
        axes = Figure().subplots()
        assert self.SWEEP.plot(axes) is axes
        legend = axes.get_legend()
        assert legend is not None
        accuracy, dotted, *others = [text.get_text() for text in legend.get_texts()]
        assert dotted == "2 points below T=12: 90.0 %"
        assert [accuracy, *others] == ["accuracy", "recommended: T=10", "synaptic operations"]

    def test_the_dotted_line_says_if_it_is_held_against_the_ann(self) -> None:
        legend = replace(self.SWEEP, reference_is_ann=True).plot(Figure().subplots()).get_legend()
        assert legend is not None
        assert legend.get_texts()[1].get_text() == "2 points below the ANN: 90.0 %"

    def test_in_short_without_its_points(self) -> None:
        assert repr(self.SWEEP).startswith("Sweep(images=400, reference=92.0")
        assert "Point(" not in repr(self.SWEEP)


class TestMistakes:
    def test_images_without_labels(self, snn: fxsnn.SpikingNetwork) -> None:
        with pytest.raises(DataError, match="a batch has no labels"):
            fxsnn.sweep(snn, X)
        for wrong in (LABELS.float(), LABELS[:3]):
            with pytest.raises(DataError, match=r"labels are .*; expected a tensor of integers \[50\]"):
                fxsnn.sweep(snn, (X, wrong))
        for nothing, message in ((None, "data is a NoneType"), ([], "data is empty")):
            with pytest.raises(DataError, match=message):
                fxsnn.sweep(snn, nothing)

    @pytest.mark.parametrize(
        ("options", "message"),
        [({"timesteps": 0}, "timesteps is 0"), ({"tolerance": -1}, "tolerance is -1"), ({"tolerance": None}, "None")],
    )
    def test_values_that_are_not_allowed(
        self, snn: fxsnn.SpikingNetwork, options: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(OptionError, match=message):
            fxsnn.sweep(snn, (X, LABELS), **options)

    def test_labels_of_any_integer_type_are_taken(self, snn: fxsnn.SpikingNetwork) -> None:
        for dtype in (torch.uint8, torch.uint16, torch.int32):
            assert fxsnn.sweep(snn, (X, LABELS.to(dtype)), timesteps=2, model=MODEL).images == 50
