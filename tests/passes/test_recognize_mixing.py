"""What computes each pixel from the channels of the same pixel of the images is a part of the first layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxsnn
from fxsnn.layers import Affine, FixedSize
from fxsnn.passes import Canonicalize, RecognizeMixing
from tests.joining import correlation
from tests.nets import in_front, seeded


class Net(nn.Module):
    """A network that does something to its images first."""

    def __init__(self, prepare: Callable[[Any, Tensor], Tensor], channels: int, padding: int, signals: bool) -> None:
        super().__init__()
        kind: Any = nn.Conv1d if signals else nn.Conv2d
        self.prepare = prepare
        self.conv, self.fc = kind(channels, 8, 3, padding=padding), nn.LazyLinear(5)
        self.norm = nn.BatchNorm2d(3)
        self.register_buffer("mean", torch.tensor([0.2, 0.4, 0.6]))
        self.register_buffer("std", torch.tensor([0.3, 0.25, 0.4]))

    def forward(self, x: Tensor) -> Any:
        x = F.relu(self.conv(self.prepare(self, x)))
        return self.fc(x.flatten(1))


def net(prepare: Callable[[Any, Tensor], Tensor], channels: int, padding: int = 1, signals: bool = False) -> Any:
    """Such a network with random weights."""
    return seeded(lambda: Net(prepare, channels, padding, signals))


def in_place(m: Any, x: Tensor) -> Tensor:
    return x.clone().sub_(m.mean[:, None, None]).div_(m.std[:, None, None])


def channel_by_channel(m: Any, x: Tensor) -> Tensor:
    """As torchvision's Inception does it."""
    parts = [x[:, i].unsqueeze(1) * (0.229 / 0.5) + (mean - 0.5) / 0.5 for i, mean in enumerate((0.485, 0.456, 0.406))]
    return torch.cat(parts, 1)


def expanded(m: Any, x: Tensor) -> Tensor:
    mean, std = (value[None, :, None, None].expand_as(x) for value in (m.mean, m.std))
    return (x - mean) / std


def in_another_order(m: Any, x: Tensor) -> Tensor:
    return (x[:, [2, 1, 0]] - m.mean[:, None, None]) / m.std[:, None, None]


def grey_of_normalised(m: Any, x: Tensor) -> Tensor:
    return m.norm(x).mean(1, keepdim=True)


PREPARED: dict[str, tuple[Callable[[Any, Tensor], Tensor], int, int]] = {
    "in place": (in_place, 3, 3),
    "channel by channel": (channel_by_channel, 3, 3),
    "stacked": (lambda m, x: torch.stack([(x[:, i] - m.mean[i]) / m.std[i] for i in range(3)], 1), 3, 3),
    "expanded": (expanded, 3, 3),
    "another order": (in_another_order, 3, 3),
    "grey": (lambda m, x: 0.3 * x[:, :1] + 0.59 * x[:, 1:2] + 0.11 * x[:, 2:], 3, 1),
    "mean": (lambda m, x: x.mean(1, keepdim=True), 3, 1),
    "grey of normalised": (grey_of_normalised, 3, 1),
    "one channel": (lambda m, x: x[:, 1:2], 3, 1),
    "repeated": (lambda m, x: x.repeat(1, 3, 1, 1), 1, 3),
    "expanded channels": (lambda m, x: x.expand(-1, 3, -1, -1), 1, 3),
    "with their differences": (lambda m, x: torch.cat([x, x[:, :1] - x[:, 1:2]], 1), 3, 4),
}
"""What is done, from how many channels and to how many."""


@pytest.mark.parametrize("name", PREPARED)
def test_it_is_a_part_of_the_first_layer(convert: Any, name: str) -> None:
    prepare, channels, given = PREPARED[name]
    model = net(prepare, given)
    x = torch.rand(48, channels, 8, 8, generator=torch.Generator().manual_seed(0))
    model(x)
    graph = in_front(model, x)
    (conv,) = graph.nodes(nn.Conv2d)
    layer: Any = graph[conv]
    assert layer.in_channels == channels
    assert all(graph.is_a(node, Affine, nn.Conv2d) or node.op == "placeholder" for node in graph.nodes()[:2])
    snn = convert(model, target="hw_v1.0", bits=4, timesteps=128, calibration_data=x)
    assert correlation(model(x).detach(), snn(x).detach()) > 0.98


def test_a_shift_of_repeated_channels_needs_a_layer_that_does_not_pad(convert: Any) -> None:
    """One channel cannot be shifted in three ways."""

    def prepare(m: Any, x: Tensor) -> Tensor:
        return (x.repeat(1, 3, 1, 1) - m.mean[:, None, None]) / m.std[:, None, None]

    x = torch.rand(48, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    model = net(prepare, 3, padding=0)
    model(x)
    snn = convert(model, target="hw_v1.0", bits=4, timesteps=128, calibration_data=x)
    assert correlation(model(x).detach(), snn(x).detach()) > 0.98
    assert not fxsnn.check(net(prepare, 3), target="hw_v1.0", bits=4, example=x).ok


def test_signals_too(convert: Any) -> None:
    def prepare(m: Any, x: Tensor) -> Tensor:
        return torch.cat([x[:, 1:], x[:, :1], x.mean(1, keepdim=True)], 1)

    x = torch.rand(48, 3, 16, generator=torch.Generator().manual_seed(0))
    model = net(prepare, 4, signals=True)
    model(x)
    snn = convert(model, target="generic", bits=4, timesteps=128, calibration_data=x)
    assert correlation(model(x).detach(), snn(x).detach()) > 0.98


@pytest.mark.parametrize(
    "prepare",
    [
        lambda m, x: x * x,
        lambda m, x: x / x.amax((1, 2, 3), keepdim=True),
        lambda m, x: x.roll(1, 3),
        lambda m, x: x - x.mean((2, 3), keepdim=True),
        lambda m, x: (x * 50).round(),
    ],
)
def test_what_is_no_line_of_each_pixel_stays(prepare: Callable[[Any, Tensor], Tensor]) -> None:
    x = torch.rand(2, 3, 8, 8)
    model = net(prepare, 3)
    model(x)
    graph = Canonicalize()(fxsnn.capture(model, x)).after
    assert RecognizeMixing()(graph, x).diff().summary() == "nothing changed"


def test_without_a_size_nothing_is_known() -> None:
    model = net(lambda m, x: x[:, [2, 1, 0]], 3)
    model(torch.rand(1, 3, 8, 8))
    graph = Canonicalize()(fxsnn.capture(model)).after
    assert RecognizeMixing()(graph).diff().summary() == "nothing changed"


def test_the_images_that_the_tail_reads_stay_as_they_are(convert: Any) -> None:
    class WithImages(Net):
        def forward(self, x: Tensor) -> Any:
            return super().forward(x) + x.mean((1, 2, 3))[:, None]

    x = torch.rand(48, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    model = seeded(lambda: WithImages(lambda m, x: x[:, [2, 1, 0]], 3, 1, False))
    model(x)
    snn = convert(model, target="generic", bits=4, timesteps=128, calibration_data=x)
    assert correlation(model(x).detach(), snn(x).detach()) > 0.98


def test_the_size_that_images_must_have_is_not_forgotten() -> None:
    def prepare(m: Any, x: Tensor) -> Tensor:
        return x[:, [2, 1, 0]] / x.shape[-1]

    x = torch.rand(2, 3, 8, 8)
    model = net(prepare, 3)
    model(x)
    graph = in_front(model, x)
    assert len(graph.nodes(FixedSize)) == 1
    assert len(graph.nodes(nn.Conv2d)) == 1
