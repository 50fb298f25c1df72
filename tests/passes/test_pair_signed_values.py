"""Values with a sign are pairs of layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxsnn
from fxsnn.layers import Concat
from fxsnn.passes import CheckConvRelu, PairSignedValues
from tests.joining import UNPAIRED, correlation, joined
from tests.nets import images, in_front, seeded


class PreActivation(nn.Module):
    """A residual block whose ReLUs stand in front of its convolutions, so that its sum has none."""

    def __init__(self, here: int, there: int, stride: int = 1) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(here), nn.BatchNorm2d(there)
        self.conv1 = nn.Conv2d(here, there, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(there, there, 3, 1, 1, bias=False)
        self.shortcut = nn.Conv2d(here, there, 1, stride, bias=False) if stride > 1 else None

    def forward(self, x: Tensor) -> Any:
        out = F.relu(self.norm1(x))
        shortcut = x if self.shortcut is None else self.shortcut(out)
        return self.conv2(F.relu(self.norm2(self.conv1(out)))) + shortcut


class Ended(nn.Module):
    """Layers, a batch norm and a ReLU, and a classifier."""

    def __init__(self, channels: int, *layers: nn.Module) -> None:
        super().__init__()
        self.layers, self.norm, self.fc = nn.Sequential(*layers), nn.BatchNorm2d(channels), nn.Linear(channels, 5)

    def forward(self, x: Tensor) -> Any:
        return self.fc(F.relu(self.norm(self.layers(x))).mean((2, 3)))


class Bottleneck(nn.Module):
    """An inverted residual, as MobileNetV2 has it: its last convolution has no activation."""

    def __init__(self, here: int, there: int, stride: int = 1) -> None:
        super().__init__()
        inner = 2 * here
        self.layers = nn.Sequential(
            nn.Conv2d(here, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU6(),
            nn.Conv2d(inner, inner, 3, stride, 1, groups=inner, bias=False), nn.BatchNorm2d(inner), nn.ReLU6(),
            nn.Conv2d(inner, there, 1, bias=False), nn.BatchNorm2d(there),
        )  # fmt: skip
        self.adds = stride == 1 and here == there

    def forward(self, x: Tensor) -> Any:
        return x + self.layers(x) if self.adds else self.layers(x)


class Growing(nn.Module):
    """A dense block: each layer reads all before it, behind a batch norm of its own."""

    def __init__(self, here: int, growth: int, count: int) -> None:
        super().__init__()
        sizes = [here + growth * number for number in range(count)]
        self.norms = nn.ModuleList(nn.BatchNorm2d(size) for size in sizes)
        self.convs = nn.ModuleList(nn.Conv2d(size, growth, 3, padding=1, bias=False) for size in sizes)

    def forward(self, x: Tensor) -> Any:
        for norm, conv in zip(self.norms, self.convs, strict=True):
            x = torch.cat([x, conv(F.relu(norm(x)))], 1)
        return x


def leaky() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.LeakyReLU(0.1), nn.AvgPool2d(2),
        nn.Conv2d(6, 6, 3, padding=1), nn.PReLU(6), nn.Conv2d(6, 8, 3, 2, 1, groups=2), nn.LeakyReLU(0.2),
        nn.Flatten(), nn.Linear(72, 16), nn.LeakyReLU(0.1), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 5),
    )  # fmt: skip


# fmt: off
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "a ReLU in front": lambda: Ended(
        10, nn.Conv2d(3, 6, 3, padding=1), PreActivation(6, 6), PreActivation(6, 10, 2), PreActivation(10, 10)
    ),
    "linear bottlenecks": lambda: Ended(
        10, nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), Bottleneck(6, 6), Bottleneck(6, 8, 2), Bottleneck(8, 8),
        nn.Conv2d(8, 10, 1),
    ),
    "a dense block": lambda: Ended(
        7, nn.Conv2d(3, 6, 3, padding=1), Growing(6, 4, 3), nn.BatchNorm2d(18), nn.ReLU(), nn.Conv2d(18, 7, 1),
        nn.AvgPool2d(2),
    ),
    "leaky": leaky,
}
# fmt: on


@pytest.mark.parametrize("name", NETWORKS)
def test_the_function_is_kept_and_every_layer_can_spike(name: str) -> None:
    x = images()
    step = PairSignedValues()(in_front(seeded(NETWORKS[name]), x), x)  # verified in double precision
    assert not CheckConvRelu().findings(step.after)


@pytest.mark.parametrize("name", NETWORKS)
def test_spikes_are_right_in_the_limit_of_time(convert: Any, name: str) -> None:
    model, x = seeded(NETWORKS[name]), images(16)
    snn = convert(model, target="generic", bits=4, timesteps=256, calibration_data=x)
    assert correlation(model(x).detach(), snn(x).detach()) > 0.98


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x, y: F.relu(y) + F.relu(m.third(y)),
        lambda m, x, y: torch.cat([y, x, F.relu(y)], 1),
        lambda m, x, y: torch.cat([x, F.avg_pool2d(y, 3, 1, 1), y[:, :, :]], 1),
        lambda m, x, y: y[:, [3, 1, 0, 2]].flip(3),
        lambda m, x, y: F.relu(y + x) + y,
        lambda m, x, y: F.leaky_relu(y, 0.3),
        lambda m, x, y: F.relu6(3 * (y - x)) + y,
    ],
    ids=["itself and its ReLU", "beside spikes", "pooled", "moved", "a sum and its part", "a leaky call", "scaled"],
)
def test_whoever_reads_it_reads_both(function: Any) -> None:
    channels = 12 if "cat" in function.__code__.co_names else 4
    model, x = joined(function, channels), images()
    step = PairSignedValues()(in_front(model, x), x)
    assert not CheckConvRelu().findings(step.after)


def test_what_reads_it_otherwise_leaves_all_as_it_is() -> None:
    graph = in_front(joined(lambda m, x, y: y * x), images())
    step = PairSignedValues()(graph, images())
    assert step.diff().summary() == "nothing changed"


def test_a_convolution_alone_in_front_of_its_relu_is_no_pair() -> None:
    graph = in_front(joined(lambda m, x, y: F.relu(y)), images())
    assert PairSignedValues()(graph, images()).diff().summary() == "nothing changed"


def test_a_chip_whose_convolutions_need_their_relu_has_no_pairs() -> None:
    report = fxsnn.check(seeded(leaky), target="hw_v1.0", bits=2, example=images())
    assert "LeakyReLU" in str(report)
    chip = fxsnn.HardwareTarget("signed", joins=("concatenate", "pair"))
    assert fxsnn.check(seeded(leaky), target=chip, bits=2, example=images()).ok


@pytest.mark.parametrize("last", [nn.LeakyReLU(0.1), nn.PReLU(6)], ids=["one slope", "slopes of channels"])
def test_it_may_be_the_last_activation(convert: Any, last: nn.Module) -> None:
    layers = (nn.Conv2d(3, 6, 3), nn.LeakyReLU(0.2), nn.Conv2d(6, 6, 3), last, nn.AvgPool2d(8), nn.Flatten())
    model, x = seeded(lambda: nn.Sequential(*layers, nn.Linear(6, 5))), images(16)
    step = PairSignedValues()(in_front(model, x), x)
    assert not CheckConvRelu().findings(step.after)
    snn = convert(model, target="generic", bits=4, timesteps=256, calibration_data=x)
    assert correlation(model(x).detach(), snn(x).detach()) > 0.98


def test_rows_are_put_behind_one_another_as_maps_are() -> None:
    graph = PairSignedValues()(in_front(seeded(leaky), images()), images()).after
    assert [graph.name(node) for node in graph.nodes(Concat)] == ["4_pair", "6_pair", "9_pair", "11_pair"]


class LateSum(nn.Module):
    """The last sum has no activation behind it, and reads an early layer and a late one."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.one, self.two, self.fc = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 5)
        self.activation = activation

    def forward(self, x: Tensor) -> Any:
        x = self.activation(self.one(x))
        return self.fc((x - self.activation(self.two(x))).mean((2, 3)))


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.LeakyReLU(0.1)], ids=["relu", "leaky"])
def test_a_sum_in_front_of_the_tail_of_layers_that_are_not_decoded_alone(convert: Any, activation: nn.Module) -> None:
    model, x = seeded(lambda: LateSum(activation)), images(16)
    snn = convert(model, target="generic", bits=4, timesteps=256, calibration_data=x)
    assert correlation(model(x).detach(), snn(x).detach()) > 0.98
    report = fxsnn.check(model, target=UNPAIRED, bits=4, example=x)
    assert "which will spike, past the layers behind that" in str(report)
