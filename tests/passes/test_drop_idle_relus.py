"""A ReLU of what is never negative is taken out, and no other one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fxsnn
from fxsnn.passes import Canonicalize, CheckConvRelu, DropIdleReLUs, RecognizeActivations
from fxsnn.rewriting import Pipeline
from tests.nets import images, in_front, seeded
from tests.sharing import cases


def network(*between: nn.Module) -> nn.Module:
    first, last = (nn.Conv2d(3, 4, 3), nn.ReLU()), (nn.Flatten(), nn.LazyLinear(6), nn.ReLU(), nn.Linear(6, 5))

    def build() -> nn.Module:
        model = nn.Sequential(*first, *between, *last)
        model(images())
        return model

    model: nn.Module = seeded(build)
    return model.eval()


@cases(
    "between",
    [
        [nn.AvgPool2d(3, 1, 1), nn.ReLU(), nn.AvgPool2d(2), nn.ReLU()],
        [nn.Flatten(), nn.ReLU()],
        [nn.ReLU6(), nn.AvgPool2d(2), nn.ReLU()],
        [nn.AvgPool2d(2), nn.ReLU()],
        [nn.AdaptiveAvgPool2d(5), nn.ReLU()],
    ],
    quick=3,
)
def test_behind_another_activation_it_is_idle(between: list[nn.Module]) -> None:
    model = network(*between)
    graph = in_front(model, images())
    assert CheckConvRelu().findings(graph) == []
    assert len(graph.nodes(nn.ReLU)) <= 2
    assert fxsnn.convert(model, target="generic", bits=4, calibration_data=images(8))(images(8)).shape == (8, 5)


@pytest.mark.parametrize("by", ["rectifiers", "any"])
@pytest.mark.parametrize(
    "between", [[nn.MaxPool2d(2), nn.ReLU()], [nn.ReLU6(), nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(2), nn.ReLU()]]
)
def test_so_it_is_behind_a_max_pooling_that_is_replaced(between: list[nn.Module], by: str) -> None:
    assert fxsnn.check(network(*between), target="generic", bits=4, example=images(), max_pool=by).ok


@pytest.mark.parametrize(
    "between",
    [
        [nn.Conv2d(4, 4, 3), nn.AvgPool2d(2), nn.ReLU()],
        [nn.AvgPool2d(2), nn.BatchNorm2d(4), nn.ReLU()],
        [nn.AvgPool2d(2), nn.ReLU6()],
    ],
)
def test_behind_anything_else_it_stays(between: list[nn.Module]) -> None:
    graph = Pipeline((Canonicalize(), RecognizeActivations()), images()).run(network(*between))
    step = DropIdleReLUs()(graph, images())
    assert step.diff().summary() == "nothing changed"
    assert torch.equal(step.after(images()), graph(images()))
