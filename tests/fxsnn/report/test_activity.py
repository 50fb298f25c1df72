"""What a network does, against loops over single spikes."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fxsnn.layers import SpikeAvgPool2d, conv_like
from fxsnn.report.activity import fan_out, sources
from tests.nets import Small, images, seeded


def brute_force(layer: Any, size: tuple[int, int, int]) -> Tensor:
    """How many outputs change when one input does, for each input."""
    found = torch.zeros(size)
    with torch.no_grad():
        for place in product(*map(range, size)):
            one = torch.zeros(1, *size)
            one[(0, *place)] = 1
            found[place] = (layer(one) != 0).sum()
    return found


PADDED: Any = conv_like(nn.Conv2d, nn.Conv2d(2, 4, 3, 2, groups=2, bias=False), (0, 1, 3, 2))


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(2, 3, 3, bias=False),
        nn.Conv2d(2, 4, (3, 2), stride=2, padding=(1, 0), bias=False),
        nn.Conv2d(2, 4, 2, dilation=2, groups=2, bias=False),
        nn.Conv2d(2, 3, 3, padding="same", bias=False),
        PADDED,
        SpikeAvgPool2d(2),
        SpikeAvgPool2d(3, stride=2, padding=1),
    ],
    ids=str,
)
def test_fan_out_counts_the_neurons_that_an_input_feeds(layer: Any) -> None:
    if isinstance(layer, nn.Conv2d):
        nn.init.ones_(layer.weight)
        layer.codes = layer.weight.detach()
    assert torch.equal(fan_out(layer, (2, 7, 6)).float(), brute_force(layer, (2, 7, 6)))


def test_a_fully_connected_layer_feeds_all_its_neurons() -> None:
    assert fan_out(nn.Linear(6, 4), (6,)).tolist() == [4] * 6


def test_each_layer_reads_the_spiking_one_before_it(convert: Any) -> None:
    graph = convert(seeded(Small), calibration_data=images(8)).graph
    assert sources(graph) == {"conv1": (None,), "pool": ("conv1",), "conv2": ("pool",), "hidden": ("conv2",)}
