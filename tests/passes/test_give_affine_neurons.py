"""A batch norm between two ReLUs has neurons of its own, where nothing else can take it in."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F

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
