"""The networks between an ANN and its spiking form, effect by effect: all together are the spiking network."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxsnn
from fxsnn.calibration import Watch
from fxsnn.insight.advice import advice_on
from fxsnn.insight.effects import EFFECTS
from tests.nets import CONVERTIBLE, Small, images, pool_neurons, seeded
from tests.random_networks import convertible_case, noise, random_seeds
from tests.sharing import cases

Convert = Callable[..., fxsnn.SpikingNetwork]
MODEL = seeded(lambda: Small(norm=False, bias=True))


def with_max_pooling() -> nn.Module:
    """3x12x12: a max pooling between two convolutions."""
    layers = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3), nn.ReLU()
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(36, 5))


def spikes_of_the_last_stage(model: nn.Module, snn: fxsnn.SpikingNetwork, x: Tensor) -> dict[str, Tensor]:
    """Which neurons of the stage with all effects fired, by layer, [T, N, ...]."""
    stage = fxsnn.stage_networks(model, snn)["timing"]
    names = {}
    for node in stage.nodes():
        if node.op == "call_module" and type(stage[node]).__name__ == "_TimedNeurons":
            names[node] = stage.name(node.all_input_nodes[0])
    found: dict[str, Tensor] = {}
    see = Watch(stage, names, lambda node, value: found.__setitem__(names[node], value > 0))
    see.run(x.double())
    return {name: value.unflatten(0, (snn.timesteps, -1)) for name, value in found.items()}


class TestAllTogether:
    @cases("name", CONVERTIBLE, quick=("one relu", "dense"))
    @pytest.mark.parametrize(
        "options",
        [
            pytest.param({}, marks=pytest.mark.slow),
            pytest.param({"reset": "zero"}, marks=pytest.mark.slow),
            {"initial_membrane": 0, "per_channel": False},
        ],
    )
    def test_they_are_the_spiking_network(self, convert: Convert, name: str, options: dict[str, Any]) -> None:
        model = seeded(CONVERTIBLE[name])
        snn = convert(model, calibration_data=images(16), timesteps=5, **options)
        self.assert_same(model, snn, images(6, seed=5))

    @random_seeds(1, slow=14)
    def test_they_are_whatever_the_network(self, seed: int) -> None:
        case = convertible_case(seed)
        self.assert_same(case.model, case.snn, noise(case.plan, 3, seed + 1))

    def test_they_are_with_a_layer_called_like_the_neurons_behind_a_pooling(self, convert: Convert) -> None:
        model = seeded(pool_neurons)
        self.assert_same(model, convert(model, calibration_data=images(16)), images())

    @pytest.mark.parametrize("reset", ["subtraction", "zero"])
    def test_they_are_with_any_neuron_of_a_window_for_its_maximum(self, convert: Convert, reset: str) -> None:
        model = seeded(with_max_pooling)
        snn = convert(model, calibration_data=images(16), timesteps=5, reset=reset, max_pool="any")
        stages = fxsnn.stage_networks(model, snn)
        logits = stages["timing"](images(6, seed=5).double())
        torch.testing.assert_close(logits.float(), snn(images(6, seed=5)), rtol=1e-4, atol=1e-5)
        budget = fxsnn.error_budget(model, snn, images(6, seed=5))
        (row,) = (row for row in budget.layers if row.layer == "2")
        assert row.sizes["timesteps"] < 1e-6 < row.sizes["timing"]
        assert "max_pool='rectifiers'" in advice_on("2", "timing", snn)

    def assert_same(self, model: nn.Module, snn: fxsnn.SpikingNetwork, x: Tensor) -> None:
        spikes = spikes_of_the_last_stage(model, snn, x)
        run = snn.simulate(x)
        assert list(spikes) == list(run.spikes)
        for name, expected in run.spikes.items():
            assert torch.equal(spikes[name], expected > 0), name
        logits = fxsnn.stage_networks(model, snn)["timing"](x.double())
        torch.testing.assert_close(logits.float(), snn(x), rtol=1e-4, atol=1e-5)

    def test_the_stage_before_is_the_spiking_network_under_a_steady_drive(self, convert: Convert) -> None:
        """One layer: its drive is steady, so that nothing is left for timing."""
        model = seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(400, 5)))
        snn = convert(model, calibration_data=images(16), timesteps=7)
        stages = fxsnn.stage_networks(model, snn)
        torch.testing.assert_close(stages["timesteps"](images().double()), stages["timing"](images().double()))

    def test_each_stage_differs_from_the_one_before(self, convert: Convert) -> None:
        stages = fxsnn.stage_networks(MODEL, convert(MODEL, calibration_data=images(16)))
        assert list(stages) == ["ann", *EFFECTS]
        outputs = [stage(images().double()) for stage in stages.values()]
        torch.testing.assert_close(outputs[0].float(), MODEL(images()))
        assert all(not torch.equal(a, b) for a, b in pairwise(outputs))
