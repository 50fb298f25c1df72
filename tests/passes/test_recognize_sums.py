"""Sums of the network's tensors are one module each, however they are written."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fxsnn
from fxsnn.graph import Graph
from fxsnn.layers import Add
from fxsnn.passes import CheckConvRelu, RecognizeSums
from tests.joining import UNPAIRED, correlation, joined
from tests.nets import images, in_front, seeded
from tests.residual import Residual
from tests.sharing import cases

SPELLINGS: dict[str, tuple[Any, list[float]]] = {
    "operator": (lambda m, x, y: F.relu(y + x), [1, 1]),
    "in place": (lambda m, x, y: F.relu(y.__iadd__(x)), [1, 1]),
    "function": (lambda m, x, y: F.relu(torch.add(y, x)), [1, 1]),
    "method": (lambda m, x, y: y.add(x).relu(), [1, 1]),
    "alpha": (lambda m, x, y: torch.add(y, x, alpha=2).relu(), [1, 2]),
    "by name": (lambda m, x, y: torch.add(input=y, other=x).relu(), [1, 1]),
    "difference": (lambda m, x, y: F.relu(y - x), [1, -1]),
    "difference with alpha": (lambda m, x, y: torch.sub(y, x, alpha=0.5).relu(), [1, -0.5]),
    "twice the same": (lambda m, x, y: F.relu(y + x + x), [1, 2]),
    "three": (lambda m, x, y: F.relu(x + y + m.third(x)), [1, 1, 1]),
    "scaled": (lambda m, x, y: F.relu(0.5 * x + y), [0.5, 1]),
    "scaled together": (lambda m, x, y: F.relu(2 * (x + y)), [2, 2]),
}


def sums(graph: Graph) -> list[Any]:
    return [graph[node] for node in graph.nodes(Add)]


@cases("name", SPELLINGS, quick=("operator", "in place", "difference with alpha", "twice the same", "three", "scaled"))
def test_a_sum_is_one_module_however_it_is_written(name: str) -> None:
    function, factors = SPELLINGS[name]
    graph = in_front(joined(function), images())
    (add,) = sums(graph)
    assert add.factor[:, 0].tolist() == factors
    assert not CheckConvRelu().findings(graph)


def test_a_batch_norm_behind_a_sum_is_a_part_of_it() -> None:
    graph = in_front(joined(lambda m, x, y: F.relu(m.norm(x + y))), images())
    (add,) = sums(graph)
    assert add.factor.shape == (2, 4)
    assert add.shift.shape == (4,)
    assert not CheckConvRelu().findings(graph)


def test_sums_go_by_the_module_in_which_they_stand() -> None:
    graph = in_front(seeded(Residual), images())
    assert [graph.name(node) for node in graph.nodes(Add)] == ["block1.add", "block2.add"]


def test_a_sum_of_activations_gets_its_relu() -> None:
    graph = in_front(joined(lambda m, x, y: x + F.relu(y)), images())
    (node,) = graph.nodes(Add)
    assert graph.is_a(graph.sole_user(node), nn.ReLU)
    assert not CheckConvRelu().findings(graph)


def test_a_chain_of_sums_that_are_read_is_a_chain_of_layers() -> None:
    def dense(m: Any, x: Any, y: Any) -> Any:
        z = x + F.relu(y)
        return z + F.relu(m.third(z))

    assert not CheckConvRelu().findings(in_front(joined(dense), images()))


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda m, x, y: F.relu(x - F.relu(y)) + (x - F.relu(y)), "no ReLU of its own behind it"),
        (lambda m, x, y: F.relu(y) * x, "mul is not supported"),
        (lambda m, x, y: F.relu(y + x.mean((2, 3), keepdim=True)), "add is not supported"),
        (lambda m, x, y: F.relu(y + x) + F.relu(y), "it is read by"),
    ],
    ids=["a sum that is read twice", "a product", "tensors of two shapes", "a convolution that is read twice"],
)
def test_what_is_no_sum_of_neurons_is_refused(function: Any, words: str) -> None:
    report = fxsnn.check(joined(function), target=UNPAIRED, bits=4, example=images())
    assert words in str(report)


def test_the_tail_may_add_up_as_it_likes() -> None:
    class Tail(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.one, self.two = nn.Conv2d(3, 4, 3), nn.Linear(4, 5), nn.Linear(4, 5)

        def forward(self, x: Any) -> Any:
            x = F.relu(self.conv(x)).mean((2, 3))
            return self.one(x) + self.two(x)

    graph = in_front(seeded(Tail), images())
    assert not graph.nodes(Add)


def test_a_sum_is_converted_and_refused_by_a_chip_without_sums(convert: Any) -> None:
    model, x = seeded(Residual), images(16)
    snn = convert(model, target="generic", bits=4, timesteps=128, calibration_data=x)
    assert correlation(model(x).detach(), snn(x).detach()) > 0.99
    with pytest.raises(
        fxsnn.TargetError, match=r"block1.add .*it adds up several layers; hw_v1.0 has neurons of"
    ) as told:
        fxsnn.convert(model, target="hw_v1.0", bits=2, calibration_data=x)
    assert "Concatenate instead of adding" in str(told.value)
    assert "block2.add" in str(told.value)


def test_nothing_changes_where_nothing_is_added() -> None:
    graph = fxsnn.capture(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Flatten()))
    assert RecognizeSums()(graph).diff().summary() == "nothing changed"
