"""Moments of what weights are multiplied by: they say what sums of the inputs are, whatever the geometry."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fxsnn.calibration import MomentMeter, input_moments
from fxsnn.layers import LowBitConv2d, LowBitLinear, along_inputs, layer_like


def low(layer: nn.Module, scale: Tensor | None = None) -> Any:
    """The layer with 2-bit weights."""
    found = layer_like(layer, LowBitConv2d, LowBitLinear)
    found.quantize(2, per_channel=True, input_scale=scale)
    return found


LAYERS = {
    "plain": lambda: nn.Conv2d(4, 6, 3, bias=False),
    "strided, padded, dilated": lambda: nn.Conv2d(4, 6, (3, 2), (2, 1), (2, 1), (1, 2), bias=False),
    "same": lambda: nn.Conv2d(4, 6, (2, 3), padding="same", bias=False),
    "in groups": lambda: nn.Conv2d(4, 6, 3, padding=1, groups=2, bias=False),
    "depthwise": lambda: nn.Conv2d(4, 8, 3, groups=4, bias=False),
}


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_they_give_the_mean_square_of_any_sum_and_its_product_with_the_float_network_s(name: str, scaled: bool) -> None:
    torch.manual_seed(0)
    layer = LAYERS[name]()
    scale = torch.tensor([0.5, 1.0, 1.5, 2.0], dtype=torch.float64) if scaled else None
    real, wanted = torch.randn(3, 4, 8, 9), torch.randn(3, 4, 8, 9).clamp(-1, 1)
    quantised = low(layer, scale)
    meter = MomentMeter(quantised, 3)
    meter.add(meter.products(real[:2], wanted[:2]))
    meter.add(meter.products(real[2:], wanted[2:]))
    meter.add(meter.products(real[:0], wanted[:0]))
    moments = meter.moments()
    weight = layer.weight if scale is None else layer.weight * along_inputs(scale.float(), quantised)
    rows = weight.detach().double().flatten(1).view(layer.groups, -1, weight[0].numel())
    found, expected = ((rows @ one * rows).sum(2).flatten() for one in (moments.real, moments.cross))
    with torch.no_grad():
        sums, others = layer(real), layer(wanted)
    torch.testing.assert_close(found, sums.double().square().mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(expected, (sums * others).double().mean((0, 2, 3)), rtol=1e-4, atol=1e-5)


def test_of_a_fully_connected_layer_they_are_those_of_its_features() -> None:
    torch.manual_seed(0)
    real, wanted = torch.randn(5, 7), torch.randn(5, 7).clamp(-1, 1)
    meter = MomentMeter(low(nn.Linear(7, 3)), 5)
    meter.add(meter.products(real, wanted))
    torch.testing.assert_close(meter.moments().real[0].float(), real.T @ real / 5)
    torch.testing.assert_close(meter.moments().cross[0].float(), wanted.T @ real / 5)


def test_what_no_real_input_says_is_left_out_of_the_float_network_s() -> None:
    real, wanted = torch.tensor([[0.5], [1.0]]), torch.tensor([[0.5], [1000.0]])
    meter = MomentMeter(low(nn.Linear(1, 1)), 2)
    meter.add(meter.products(real, wanted))
    torch.testing.assert_close(meter.moments().cross, meter.moments().real)


def test_of_large_maps_some_places_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(input_moments, "_SEEN", 64)
    meter, real = MomentMeter(low(nn.Conv2d(1, 2, 1)), 4), torch.randn(4, 1, 20, 20)
    meter.add(meter.products(real, real))
    assert meter._count == 64
    assert 0.3 < float(meter.moments().real) < 3


def test_layers_of_too_many_inputs_are_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = low(nn.Linear(12, 3))
    assert MomentMeter.takes(layer)
    monkeypatch.setattr(input_moments, "_LARGEST", 11)
    assert not MomentMeter.takes(layer)
