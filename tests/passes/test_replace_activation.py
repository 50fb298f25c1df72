"""Relatives of the ReLU, replaced on demand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxsnn
from fxsnn.graph import Graph
from fxsnn.passes import Canonicalize, RecognizeActivations, ReplaceActivation

Function = Callable[[Tensor], Tensor]

RELATIVES: dict[str, Function] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "elu": F.elu,
    "mish": F.mish,
    "softplus": F.softplus,
    "hardswish": F.hardswish,
    "module": nn.GELU(approximate="tanh"),
    "swish": lambda x: x * torch.sigmoid(x),
    "quick GELU": lambda x: x * torch.sigmoid(1.702 * x),
    "GELU by hand": lambda x: 0.5 * x * (1 + torch.tanh(0.79788456 * (x + 0.044715 * x**3))),
    "hardswish by hand": lambda x: x * F.relu6(x + 3) / 6,
    "mish by hand": lambda x: x * torch.tanh(F.softplus(x)),
}
OTHERS: dict[str, Function] = {
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "selu": F.selu,  # its slope is not 1
    "square": lambda x: F.relu(x) ** 2,
    "far away": lambda x: F.relu(x - 2) + F.elu(x, 3.0) - F.relu(x),
}
KNOWN: dict[str, Function] = {
    "shifted": lambda x: F.relu(x) + 0.5,
    "with an end": lambda x: x.clamp(0, 1),
    "leaky": F.leaky_relu,
}


class Twice(nn.Module):
    """The function behind two convolutions, and once more in the tail."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Conv2d(1, 3, 3), nn.Conv2d(3, 3, 3), nn.Linear(48, 4)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        x = self.function(self.second(self.function(self.first(x))))
        return self.function(self.last(x.flatten(1)))

    def with_hidden(self, hidden: Function, x: Tensor) -> Tensor:
        """What it would give with another function in front of its last layer."""
        x = hidden(self.second(hidden(self.first(x))))
        return self.function(self.last(x.flatten(1)))


def twice(function: Function) -> Twice:
    torch.manual_seed(0)
    return Twice(function).eval()


def captured(model: nn.Module) -> Graph:
    return Canonicalize()(fxsnn.capture(model)).after


IMAGES = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", RELATIVES)
def test_a_relative_of_the_relu_becomes_one_but_not_in_the_tail(name: str) -> None:
    model = twice(RELATIVES[name])
    replaced = ReplaceActivation()(captured(model)).after.module
    torch.testing.assert_close(replaced(IMAGES), model.with_hidden(F.relu, IMAGES))
    assert fxsnn.check(replaced, target="hw_v1.0", bits=2).ok


@pytest.mark.parametrize("name", RELATIVES)
def test_nothing_replaces_it_unasked(name: str) -> None:
    assert not fxsnn.check(twice(RELATIVES[name]), target="generic", bits=4).ok


@pytest.mark.parametrize("name", [name for name in RELATIVES if "by hand" not in name])
def test_the_remedy_names_the_pass(name: str) -> None:
    report = fxsnn.check(twice(RELATIVES[name]), target="generic", bits=4)
    assert any("ReplaceActivation" in finding.remedy for finding in report.findings)


@pytest.mark.parametrize("name", [*OTHERS, *KNOWN])
def test_other_functions_and_known_activations_stay(name: str) -> None:
    graph = captured(twice((OTHERS | KNOWN)[name]))
    assert torch.equal(ReplaceActivation()(graph).after.module(IMAGES), graph.module(IMAGES))


@pytest.mark.parametrize("name", OTHERS)
def test_the_pass_is_no_remedy_for_what_it_leaves(name: str) -> None:
    report = fxsnn.check(twice(OTHERS[name]), target="generic", bits=4)
    assert not report.ok
    assert not any("ReplaceActivation" in finding.remedy for finding in report.findings)


def test_what_is_added_in_front_and_behind_is_kept() -> None:
    model = twice(lambda x: F.silu(x + 0.25) * 2 + 0.5)
    replaced = ReplaceActivation()(captured(model)).after.module
    expected = model.with_hidden(lambda x: F.relu(x + 0.25) * 2 + 0.5, IMAGES)
    torch.testing.assert_close(replaced(IMAGES), expected)


def test_it_works_in_a_pipeline_before_or_behind_the_recognition_of_activations() -> None:
    model, given = twice(F.silu), torch.rand(8, 1, 8, 8)
    usual = fxsnn.pipeline(target="generic", bits=4, calibration_data=given)
    for pipeline in (
        usual.before("recognize-activations", ReplaceActivation()),
        usual.after("recognize-activations", ReplaceActivation()),
    ):
        graph = pipeline.run(model)
        assert fxsnn.SpikingNetwork(graph, "generic")(given).shape == (8, 4)


def test_a_known_activation_behind_a_relative_stays() -> None:
    model = twice(lambda x: F.relu6(F.silu(x)))
    graph = RecognizeActivations()(captured(model)).after
    replaced = ReplaceActivation()(graph).after.module
    torch.testing.assert_close(replaced(IMAGES), model.with_hidden(lambda x: F.relu6(F.relu(x)), IMAGES))
