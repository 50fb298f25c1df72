"""A batch norm between two ReLUs has neurons of its own, where nothing else can take it in."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxsnn
from fxsnn.layers import Add, Affine
from fxsnn.passes import CheckConvRelu, GiveAffineNeurons
from tests.joining import correlation, joined
from tests.nets import images, in_front

BETWEEN = joined(lambda m, x, y: F.relu(m.norm(x)) + F.relu(m.third(x)))


def test_it_is_a_sum_of_one_input() -> None:
    graph = in_front(BETWEEN, images())
    sums = [graph[node] for node in graph.nodes(Add)]
    assert [len(add.factor) for add in sums if isinstance(add, Add)] == [1, 2]
    assert not graph.nodes(Affine)
    assert not CheckConvRelu().findings(graph)


def test_it_spikes_as_it_should(convert: Any) -> None:
    snn = convert(BETWEEN, target="generic", bits=4, timesteps=128, calibration_data=images(16))
    assert correlation(BETWEEN(images(16)).detach(), snn(images(16)).detach()) > 0.99


def test_what_a_layer_can_take_in_costs_no_neurons() -> None:
    graph = in_front(joined(lambda m, x, y: F.relu(m.norm(y))), images())
    assert not graph.nodes(Add)
    assert GiveAffineNeurons()(graph, images()).diff().summary() == "nothing changed"


SCALED = {
    "pooled": joined(lambda m, x, y: F.avg_pool2d(torch.cat([20 * x, y.relu()], 1), 2), 8),
    "turned": joined(lambda m, x, y: torch.cat([5 * x, y.relu()], 1).flip(3), 8),
}


@pytest.mark.parametrize("name", SCALED)
def test_a_scale_of_one_branch_is_not_lost(convert: Any, name: str) -> None:
    """The activation has another reader, so that no layer in front of it can take the scale in."""
    model, x = SCALED[name], images(16)
    snn = convert(model, target="generic", bits=4, timesteps=256, calibration_data=x)
    assert correlation(model(x).detach(), snn(x).detach()) > 0.98


def test_where_it_cannot_be_done_it_is_refused() -> None:
    model = joined(lambda m, x, y: torch.cat([5 * x, y.relu()], 1), 8)
    report = fxsnn.check(model, target="hw_v1.0", bits=2, example=images())
    assert "it scales and shifts each channel between activations" in str(report)
    graph = in_front(model, images())
    (node,) = graph.nodes(Add)
    kept, relu = graph[node], graph.sole_user(node)
    assert isinstance(kept, Add)
    assert relu is not None
    graph.replace(node, Affine(kept.factor[0], kept.shift))
    graph.bypass(relu)
    assert "which no layer can do for it there" in str(CheckConvRelu().findings(graph)[0])


def blurred(m: Any, x: Tensor, y: Tensor) -> Tensor:
    """As networks against aliasing do it, in front of a convolution that pads."""
    return F.relu(m.third(F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), m.kernel, stride=2, groups=4)))


def test_a_convolution_without_a_negative_weight_has_neurons_and_no_pairs(convert: Any) -> None:
    model, x = joined(blurred), images(16)
    row = torch.tensor([1.0, 2.0, 1.0])
    model.register_buffer("kernel", row.outer(row).expand(4, 1, 3, 3) / 16)
    graph = in_front(model, x)
    assert len(graph.nodes(nn.Conv2d)) == len(graph.nodes(nn.ReLU)) == 4  # second is not read
    assert not CheckConvRelu().findings(graph)
    snn = convert(model, target="generic", bits=4, timesteps=256, calibration_data=x)
    assert correlation(model(x).detach(), snn(x).detach()) > 0.98
