"""Every layer that cannot spike is named, with its place and the remedy, all in one error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxsnn
from fxsnn.errors import Finding, ModelError
from fxsnn.passes import Canonicalize, CheckConvRelu
from tests.clipped import Own
from tests.nets import CONVERTIBLE, Small, seeded


def findings(model: nn.Module) -> dict[str, Finding]:
    graph = Canonicalize()(fxsnn.capture(model)).after
    return {finding.layer: finding for finding in CheckConvRelu().findings(graph)}


def chain(*layers: nn.Module) -> nn.Sequential:
    """A convolution with ReLU, then `layers`, another one, then flatten and the final layer."""
    first, second = (nn.Conv2d(3, 4, 3), nn.ReLU()), (nn.Conv2d(4, 4, 1), nn.ReLU())
    return nn.Sequential(*first, *layers, *second, nn.Flatten(), nn.Linear(4, 2))


class Forward(nn.Module):
    """Layers a, b and fc called as `function(self, x)` says."""

    def __init__(self, function: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.a, self.b, self.fc = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(4, 2)
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


@pytest.mark.parametrize("name", CONVERTIBLE)
def test_networks_that_can_be_converted_pass(name: str) -> None:
    assert findings(seeded(CONVERTIBLE[name])) == {}


@pytest.mark.parametrize(
    ("model", "layer", "words"),
    [
        (chain(nn.MaxPool2d(2)), "2", ["MaxPool2d is not supported", "with average pooling"]),
        (chain(nn.Sigmoid()), "2", ["Sigmoid is not supported", "nn.ReLU"]),
        (chain(nn.Conv2d(4, 4, 3), nn.GELU()), "3", ["GELU is not supported", "nn.ReLU"]),
        (chain(nn.Conv2d(4, 4, 3), nn.ReLU6(), nn.Conv2d(4, 4, 3), nn.ReLU()), "3", ["ReLU6 is not supported"]),
        (chain(nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3), nn.ReLU()), "2", ["this convolution has no ReLU"]),
        (chain(nn.Conv2d(4, 4, 3)), "2", ["this convolution has no ReLU"]),
        (chain(nn.AvgPool2d(2), nn.ReLU()), "3", ["this ReLU follows a pooling layer"]),
        (chain(nn.AvgPool2d(2, ceil_mode=True)), "2", ["ceil_mode"]),
        (chain(nn.AvgPool2d(2, divisor_override=3)), "2", ["divisor_override"]),
        (chain(nn.AvgPool2d(2, padding=1, count_include_pad=False)), "2", ["count_include_pad=True"]),
        (chain(nn.AvgPool2d(2, padding=(1, 0), count_include_pad=False)), "2", ["count_include_pad=True"]),
        (chain(nn.AvgPool2d(2, padding=(0, 1), count_include_pad=False)), "2", ["count_include_pad=True"]),
        (nn.Sequential(nn.AvgPool2d(2), *chain()), "0", ["pools the images themselves"]),
        (chain(nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"), nn.ReLU()), "2", ["padding_mode is 'circular'"]),
        (chain(nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.ReLU()), "2", ["does not directly follow"]),
        (
            chain(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.ReLU()),
            "3",
            ["no running statistics"],
        ),
        (chain(nn.ConvTranspose2d(4, 4, 3), nn.ReLU()), "2", ["Run the passes of the front end"]),
        (
            nn.Sequential(nn.Flatten(), nn.Linear(9, 4), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)),
            "1",
            ["hidden fully connected layer has no ReLU"],
        ),
        (chain(nn.Linear(4, 4), nn.ReLU()), "2", ["reads a map", "nn.Flatten in front"]),
        (chain(nn.Flatten(2), nn.Linear(4, 4), nn.ReLU()), "2", ["flattens dimensions 2 to -1", "nn.Flatten(1)"]),
        (nn.Sequential(nn.Flatten(), nn.Linear(9, 4)), "network", ["There is nothing to convert"]),
    ],
)
def test_a_layer_that_cannot_spike_is_named_with_the_remedy(model: nn.Module, layer: str, words: list[str]) -> None:
    found = findings(model)
    assert layer in found
    for word in words:
        assert word in str(found[layer])


@pytest.mark.parametrize(
    ("function", "layer", "words"),
    [
        (lambda m, x: m.fc(F.relu(m.b(F.relu(m.a(x)).sort(1)[0])).mean((2, 3))), "sort", ["sort is not supported"]),
        (
            lambda m, x: m.fc(F.relu(m.b(F.max_pool2d(F.relu(m.a(x)), 2))).flatten(1)),
            "max_pool2d",
            ["with average pooling"],
        ),
        (
            lambda m, x: m.fc(F.relu(m.b(F.adaptive_max_pool2d(F.relu(m.a(x)), 5))).mean((2, 3))),
            "adaptive_max_pool2d",
            ["Use a max pooling with a fixed window", "with average pooling"],
        ),
        (
            lambda m, x: m.fc(F.relu(m.b(F.relu(m.a(x[:, :, 1:])))).mean((2, 3))),
            "getitem",
            ["Do it before the network, while the images are prepared"],
        ),
        (lambda m, x: m.fc(F.gelu(m.a(x)).flatten(1)), "gelu", ["gelu is not supported", "Train it with nn.ReLU"]),
        (lambda m, x: m.fc(m.b(F.relu(m.a(x))).tanh().flatten(1)), "tanh", ["tanh is not supported"]),
        (lambda m, x: m.fc(F.max_pool2d(m.b(F.relu(m.a(x))), 2).flatten(1)), "max_pool2d", ["average pooling"]),
        (
            lambda m, x: m.fc((lambda y: F.relu(m.b(y)) * y)(F.relu(m.a(x))).mean((2, 3))),
            "mul",
            ["it reads relu, which will spike, past", "let what stands behind it read that one alone"],
        ),
        (lambda m, x: m.fc((lambda y: F.relu(y) * y)(m.a(x)).mean((2, 3))), "a", ["read by relu, mul", "read only"]),
        (
            lambda m, x: m.fc(F.relu(m.b(F.relu(m.b(F.relu(m.a(x)))))).mean((2, 3))),
            "b",
            ["used 2 times", "Run SeparateCalls first"],
        ),
        (
            lambda m, x: m.fc(F.relu(m.b(F.dropout(F.relu(m.a(x))))).mean((2, 3))),
            "dropout",
            ["training=self.training"],
        ),
        (lambda m, x: m.fc(F.relu(F.conv2d(x, m.a.weight)).mean((2, 3))), "conv2d", ["conv2d is not supported"]),
        (
            lambda m, x: m.fc(F.relu(m.b(F.relu(m.a(x)).view(x.size(0), 4, 5, 5))).mean((2, 3))),
            "view",
            ["not supported"],
        ),
        (
            lambda m, x: m.fc(F.relu(m.b(F.relu(m.a(x)).view(x.size(0), 4, 5, 5))).mean((2, 3))),
            "size",
            ["Do not read the size"],
        ),
        (
            lambda m, x: (lambda y: m.fc(F.relu(m.b(y)).mean((2, 3))) + y.mean())(F.relu(m.a(x))),
            "mean_1 (mean)",
            ["reads relu", "Only the last layer that spikes is decoded"],
        ),
    ],
)
def test_an_operation_that_cannot_spike_is_named_with_its_line(
    function: Callable[[Any, Tensor], Any], layer: str, words: list[str]
) -> None:
    found = findings(Forward(function))
    assert layer in found
    for word in words:
        assert word in str(found[layer])
    assert found[layer].source.startswith("test_check_conv_relu.py:")


def test_two_inputs_are_refused() -> None:
    class TwoInputs(Small):
        def forward(self, x: Tensor, y: Tensor) -> Any:  # type: ignore[override]
            return super().forward(x + y)

    assert "second input" in findings(TwoInputs())["y"].problem


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(value: float) -> None:
    model = seeded(Small)
    with torch.no_grad():
        model.conv1.weight[0, 0, 0, 0] = value
        model.fc.bias[1] = value
    found = findings(model)
    assert set(found) == {"conv1", "fc"}
    assert "its weight has values that are NaN or infinite (1)" in found["conv1"].problem


def test_all_offenders_come_in_one_error() -> None:
    model = chain(nn.MaxPool2d(2), nn.Conv2d(4, 4, 3), nn.Tanh(), nn.Conv2d(4, 4, 3))
    graph = Canonicalize()(fxsnn.capture(model)).after
    with pytest.raises(ModelError) as caught:
        CheckConvRelu()(graph)
    assert [finding.layer for finding in caught.value.findings] == ["2", "4", "5"]
    assert str(caught.value).startswith("3 problems:\n  2: MaxPool2d")


def test_what_follows_from_another_finding_is_no_finding_of_its_own() -> None:
    found = findings(chain(nn.LocalResponseNorm(2), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.GroupNorm(2, 4), nn.ReLU()))
    assert list(found) == ["2", "5"]  # none for the two ReLUs, nor for the convolution in front of the norm
    joined = Forward(lambda m, x: m.fc((lambda y: F.relu(m.b(y)) + y)(F.relu(m.a(x))).mean((2, 3))))
    past_its_norm = Forward(lambda m, x: m.fc((lambda y: F.relu(m.norm(y)) * y)(m.a(x)).mean((2, 3))))
    past_its_norm.norm = nn.BatchNorm2d(4)
    for model, layers in ((joined, ["add"]), (past_its_norm, ["a", "mul"])):
        graph = Canonicalize()(fxsnn.capture(model)).after
        assert [finding.layer for finding in CheckConvRelu().findings(graph)] == layers


def test_arithmetic_on_the_images_belongs_in_front_of_the_network() -> None:
    found = findings(Forward(lambda m, x: m.fc(F.relu(m.a((x - 0.5) / 0.25)).mean((2, 3)))))
    assert "Do it before the network, while the images are prepared" in str(found["sub"])


def test_all_in_front_of_an_activation_that_cannot_spike_is_told_at_once() -> None:
    model = Forward(lambda m, x: m.fc(torch.tanh(m.b(F.max_pool2d(F.relu(m.a(x)), 2))).mean((2, 3))))
    assert list(findings(model)) == ["max_pool2d", "tanh"]


TAILS: dict[str, Callable[[Any, Tensor], Any]] = {
    "fully connected layers in a row": lambda m, y: m.two(m.fc(y.mean((2, 3)))),
    "a convolution as classifier": lambda m, y: m.b(y).mean((2, 3)),
    "a convolution and a fully connected layer": lambda m, y: m.fc(m.b(y).flatten(1)),
    "a segmentation head": lambda m, y: F.interpolate(m.b(y), scale_factor=2.0),
    "two heads": lambda m, y: (m.fc(y.mean((2, 3))), m.b(y).mean((2, 3))),
    "a head with an activation of its own": lambda m, y: {"a": m.fc(y.mean((2, 3))), "b": m.b(y).relu()},
    "logits and what they are made of": lambda m, y: [m.fc(y.mean((2, 3))), y],
    "heads joined": lambda m, y: m.four(torch.cat([m.fc(y.mean((2, 3))), m.two(m.fc(y.amax((2, 3))))], 1)),
    "a maximum of the rates": lambda m, y: m.fc(F.max_pool2d(y, 2).flatten(1)),
    "a pooling with windows of several sizes": lambda m, y: m.fc(F.avg_pool2d(y, 2, ceil_mode=True).flatten(1)),
    "any function of the rates": lambda m, y: m.fc(y.sigmoid().mean((2, 3))),
    "an attention": lambda m, y: m.fc((m.b(y).flatten(2).softmax(2) * y.flatten(2)).sum(2)),
    "log-probabilities": lambda m, y: m.fc(y.mean((2, 3))).log_softmax(1),
    "nothing": lambda m, y: y,
}


@pytest.mark.parametrize("name", TAILS)
def test_what_lies_behind_the_last_layer_that_spikes_is_tail(name: str) -> None:
    model = Forward(lambda m, x: TAILS[name](m, F.relu(m.a(x))))
    model.two, model.four = nn.Linear(2, 2), nn.Linear(4, 2)
    graph = Canonicalize()(fxsnn.capture(model)).after
    assert CheckConvRelu().findings(graph) == []
    assert [graph.name(node) for node in graph.body()] == ["x", "a", "relu"]


def test_poolings_behind_the_last_activation_spike() -> None:
    model = Forward(lambda m, x: m.fc(F.avg_pool2d(F.avg_pool2d(F.relu(m.a(x)), 2), 2).mean((2, 3))))
    graph = Canonicalize()(fxsnn.capture(model)).after
    assert [graph.name(node) for node in graph.body(nn.AvgPool2d)] == ["avg_pool2d", "avg_pool2d_1"]
    several = Forward(lambda m, x: (lambda y: (m.fc(F.avg_pool2d(y, 5).flatten(1)), y))(F.relu(m.a(x))))
    graph = Canonicalize()(fxsnn.capture(several)).after
    assert graph.body(nn.AvgPool2d) == []  # what is pooled is read by itself, too


@pytest.mark.parametrize(
    "head", [lambda m, y, x: m.two(m.fc(y.mean((2, 3))).relu()), lambda m, y, x: m.two(m.fc(x.mean((2, 3))).relu())]
)
def test_a_head_with_a_hidden_layer_of_its_own_is_a_branch(head: Callable[[Any, Tensor, Tensor], Any]) -> None:
    model = Forward(lambda m, x: (lambda y: (head(m, y, x), m.fc2(m.b(y).relu().mean((2, 3)))))(m.a(x).relu()))
    model.two, model.fc2 = nn.Linear(2, 2), nn.Linear(4, 2)
    told = [str(finding) for finding in findings(model).values()]
    assert any("on a branch beside the layers" in one or "past the layers behind" in one for one in told)


def test_what_lies_behind_the_final_layer_is_the_users_business() -> None:
    assert findings(nn.Sequential(*chain(), nn.Sigmoid(), nn.Softmax(1))) == {}
    tanh = nn.Tanh()
    assert findings(nn.Sequential(*chain(), tanh, tanh)) == {}  # it has no weights that could be used twice


def test_a_network_without_a_final_layer_ends_in_global_pooling() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Softmax(1))
    assert findings(model) == {}


def test_padding_of_half_a_window_is_allowed() -> None:
    layers = (nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AvgPool2d((2, 1), padding=(1, 0)), nn.Flatten(), nn.Linear(240, 5))
    assert CheckConvRelu().findings(Canonicalize()(fxsnn.capture(nn.Sequential(*layers))).after) == []


# Where nothing was found that spikes ----------------------------------------------------------------------------------


def without_relu(activation: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 4, 3), activation, nn.Flatten(), nn.Linear(400, 3)).eval()


def test_an_activation_that_is_none_is_named() -> None:
    (finding,) = fxsnn.check(without_relu(Own(lambda _, x: x.abs())), target="generic", bits=4).findings
    assert "abs is not supported" in finding.problem
    assert "nn.ReLU" in finding.remedy
    assert fxsnn.check(without_relu(nn.ReLU()), target="generic", bits=4).ok


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
@pytest.mark.parametrize("make", [torch.jit.script, lambda part: torch.jit.trace(part, torch.rand(2, 1, 12, 12))])
def test_a_part_in_torchscript_is_named(make: Any) -> None:
    whole = without_relu(nn.ReLU())
    model = nn.Sequential(make(whole[:2]), *whole[2:])
    (finding,) = fxsnn.check(model, target="generic", bits=4, example=torch.rand(2, 1, 12, 12)).findings
    assert finding.layer == "0"
    assert "TorchScript module" in finding.problem
    assert "Put the module that it was made of in its place" in finding.remedy


def test_a_program_of_export_is_named() -> None:
    program = torch.export.export(without_relu(nn.ReLU()), (torch.rand(2, 1, 12, 12),)).module()
    (finding,) = fxsnn.check(program, target="generic", bits=4).findings
    assert "torch.export" in finding.problem
