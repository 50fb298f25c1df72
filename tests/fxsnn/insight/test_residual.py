"""Error budgets, effects and sweeps of networks whose layers are a graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import fxsnn
from fxsnn.chip import Registers
from fxsnn.errors import OptionError
from fxsnn.insight.advice import advice_on
from fxsnn.layers import Integers
from tests.fxsnn.insight import test_effects
from tests.nets import images
from tests.residual import RESIDUAL
from tests.sharing import cases, converted_once

Convert = Callable[..., fxsnn.SpikingNetwork]
pytestmark = pytest.mark.filterwarnings(
    "ignore:the spiking network cannot be saved", "ignore:[12]-bit weights without fine-tuning"
)
IMAGES = images(16)


@converted_once
def spiking(name: str, **options: Any) -> fxsnn.SpikingNetwork:
    given = {"target": "generic", "bits": 3, "timesteps": 8, "correction": None, **options}
    return fxsnn.convert(RESIDUAL[name](), calibration_data=IMAGES, **given)


def converted(name: str, **options: Any) -> tuple[nn.Module, fxsnn.SpikingNetwork]:
    return RESIDUAL[name](), spiking(name, **options)


@cases("name", RESIDUAL, quick=("blocks", "no weights"))
@cases("options", [{}, {"bits": 1, "reset": "zero", "initial_membrane": 0, "per_channel": False}], quick=1)
def test_with_all_effects_the_network_is_the_spiking_one(name: str, options: dict[str, Any]) -> None:
    test_effects.TestAllTogether().assert_same(*converted(name, **options), images(6, seed=5))


@pytest.mark.parametrize("name", list(RESIDUAL))
def test_sums_and_their_weighted_inputs_have_rows_and_effects_add_up(name: str) -> None:
    model, snn = converted(name)
    budget = fxsnn.error_budget(model, snn, IMAGES)
    kinds = {row.layer: row.kind for row in budget.layers}
    assert list(kinds) == [snn.graph.name(node) for node in snn.graph.nodes(Integers)]
    assert "SpikeAdd" in kinds.values()
    for row in budget.layers:
        assert row.inherited + sum(row.shares.values()) == pytest.approx(row.distance, abs=1e-9), row.layer
        if row.kind.startswith("Synapse"):
            assert list(row.sizes) == ["weights"]
            assert row.sizes["weights"] > 0
    assert all(name in str(budget) for name in kinds)


def test_what_layers_inherit_and_lose_is_what_sets_the_spikes_apart() -> None:
    """Each sum's distance, measured by itself."""
    model, snn = converted("blocks")
    rows = {row.layer: row for row in fxsnn.error_budget(model, snn, IMAGES).layers}
    for layer, (analog, real) in fxsnn.layer_activations(model, snn, IMAGES).items():
        distance = float((real - analog).square().sum() / analog.square().sum()) ** 0.5
        assert rows[layer].distance == pytest.approx(distance), layer
    assert {row.layer for row in rows.values() if row.kind.startswith("Synapse")} == {
        "block1.conv2", "block2.conv2", "block2.down.0",
    }  # fmt: skip


def test_without_correction_a_sum_itself_has_no_share_of_the_weights() -> None:
    """They are its inputs'."""
    model, snn = converted("blocks", bits=2)
    for row in fxsnn.error_budget(model, snn, IMAGES).layers:
        if row.kind == "SpikeAdd":
            assert row.sizes["weights"] < 1e-9, row.layer
    corrected = converted("blocks", bits=2, correction="biases")[1]
    sizes = [row.sizes["weights"] for row in fxsnn.error_budget(model, corrected, IMAGES).layers if "Add" in row.kind]
    assert min(sizes) > 1e-3


def test_advice_on_a_sum_is_about_what_a_sum_has() -> None:
    _, snn = converted("blocks")

    (as_it_is,) = (one for row in snn.report.layers for one in row.adds if one.error is not None)
    low, high = as_it_is.gain
    assert f"whole numbers of {low:,}..{high:,}" in advice_on("block1.add", "rounding", snn)
    assert "whole numbers of" not in advice_on("block2.add", "rounding", snn)
    assert "the weights of its inputs" in advice_on("block1.add", "weights", snn)
    assert "a larger T than 8" in advice_on("block1.add", "timesteps", snn)
    assert "more bits (the target allows 4)" in advice_on("block2.down.0", "weights", snn)


def test_advice_on_coarse_sums_helps() -> None:
    """Wider codebook entries, and less is lost by rounding."""
    sizes = []
    for codebook in (6, 14):
        registers = Registers(codebook=codebook, threshold=24, leak=24)
        model, snn = converted("blocks", target=replace(fxsnn.get_target("generic"), registers=registers))
        rows = {row.layer: row for row in fxsnn.error_budget(model, snn, IMAGES).layers}
        sizes.append(rows["block1.add"].sizes["rounding"])
    assert sizes[0] > 2 * sizes[1]


def test_a_network_with_another_sum_is_not_the_one_that_was_converted() -> None:
    _, snn = converted("blocks")
    with pytest.raises(OptionError, match="not converted from this model: its layers are stem, block1"):
        fxsnn.error_budget(RESIDUAL["no weights"](), snn, IMAGES)


def test_latency_is_the_longest_way_and_nothing_is_counted_twice() -> None:
    _, snn = converted("blocks")
    sweep = fxsnn.sweep(snn, (IMAGES, torch.arange(16) % 5), timesteps=8)
    assert [point.latency for point in sweep.points] == list(range(5, 13))  # stem, conv1, add, conv1, add
    totals = snn.profile(IMAGES).totals()
    assert sweep.points[-1].synaptic_operations == pytest.approx(totals.synaptic_operations)
    assert sweep.points[-1].input_operations == pytest.approx(totals.input_operations)
