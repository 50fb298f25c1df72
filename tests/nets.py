"""Small networks for the tests, deterministic and legal on Hardware v1.0 unless they say otherwise."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxsnn
from fxsnn.graph import Graph
from fxsnn.passes import FRONT_END
from fxsnn.rewriting import Pipeline


def seeded(build: Callable[[], nn.Module], seed: int = 0) -> Any:  # tests reach for its layers by name
    """The network with random weights and random batch norm statistics, in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build()
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d) and norm.running_mean is not None:
            assert norm.running_var is not None
            norm.running_mean.normal_(0, 0.3, generator=generator)
            norm.running_var.uniform_(0.5, 2, generator=generator)
            if norm.affine:
                with torch.no_grad():
                    norm.weight.uniform_(0.5, 1.5, generator=generator)
                    norm.bias.normal_(0, 0.3, generator=generator)
    return model.eval()


def images(count: int = 4, channels: int = 3, size: int = 12, seed: int = 1) -> Tensor:
    """Noise as normalised images have it, [count, channels, size, size]."""
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(seed))


class Small(nn.Module):
    """3x12x12: two convolutions with batch norm, pooling, a hidden layer, everything as modules."""

    def __init__(self, norm: bool = True, bias: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=bias)
        self.norm1: nn.Module = nn.BatchNorm2d(8) if norm else nn.Identity()
        self.relu1 = nn.ReLU()
        self.pool = nn.AvgPool2d(2)
        self.conv2 = nn.Conv2d(8, 8, 3, bias=bias)
        self.norm2: nn.Module = nn.BatchNorm2d(8) if norm else nn.Identity()
        self.relu2 = nn.ReLU()
        self.flatten = nn.Flatten()
        self.hidden = nn.Linear(8 * 4 * 4, 16)
        self.relu3 = nn.ReLU()
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Any:
        x = self.pool(self.relu1(self.norm1(self.conv1(x))))
        x = self.flatten(self.relu2(self.norm2(self.conv2(x))))
        return self.fc(self.relu3(self.hidden(x)))


class Ending(Small):
    """Small with another end."""

    def __init__(self, outputs: int, *last: nn.Module) -> None:
        super().__init__()
        self.fc, self.last = nn.Linear(16, outputs), nn.Sequential(*last)

    def forward(self, x: Tensor) -> Any:
        return self.last(super().forward(x))


class Functional(nn.Module):
    """The shape of `Small`, written with functions, methods and an in-place ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 8, 3)
        self.hidden = nn.Linear(8 * 4 * 4, 16)
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Any:
        x = F.avg_pool2d(F.relu(self.conv1(x), inplace=True), 2)
        x = self.conv2(x).relu_()
        x = F.dropout(x.view(x.size(0), -1), 0.5, self.training)
        x = torch.relu(self.hidden(x))
        return F.log_softmax(self.fc(x), dim=1)


class OneRelu(nn.Module):
    """One in-place ReLU behind every layer, nested blocks, grouped convolution, global pooling, softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU(inplace=True)
        self.block = nn.ModuleDict({"conv": nn.Conv2d(3, 6, 3), "norm": nn.BatchNorm2d(6, affine=False)})
        self.features = nn.Sequential(nn.Sequential(nn.Conv2d(6, 8, 3, groups=2), nn.BatchNorm2d(8)), nn.Identity())
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.dropout = nn.Dropout(0.5)
        self.fc = nn.Linear(32, 5)
        self.softmax = nn.Softmax(dim=1)

    def forward(self, x: Tensor) -> Any:
        x = self.relu(self.block["norm"](self.block["conv"](x)))
        x = self.relu(self.features(x))
        return self.softmax(self.fc(self.dropout(torch.flatten(self.pool(x), 1))))


class Dense(nn.Module):
    """No convolution: flattened images through two hidden layers, one of them with batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(432, 20),
            nn.BatchNorm1d(20),
            nn.ReLU(),
            nn.Linear(20, 12),
            nn.ReLU(),
            nn.Linear(12, 5),
        )

    def forward(self, x: Tensor) -> Any:
        return self.layers(x)


class HandWritten(nn.Module):
    """Written with spiking layers, as an alternative to leaving everything to the compiler."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = fxsnn.SpikeConv2d(3, 8, 3, padding=1)
        self.relu1 = fxsnn.SpikeReLU()
        self.pool = fxsnn.SpikeAvgPool2d(2)
        self.conv2 = fxsnn.SpikeConv2d(8, 8, 3, padding=1)
        self.relu2 = fxsnn.SpikeReLU()
        self.hidden = fxsnn.SpikeLinear(8 * 3 * 3, 16)
        self.relu3 = fxsnn.SpikeReLU()
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Any:
        x = self.relu1(self.conv1(x))
        x = self.relu2(self.conv2(self.pool(x)))
        x = fxsnn.spike_avg_pooling(x, 2)
        return self.fc(self.relu3(self.hidden(x.flatten(1))))


def pool_neurons() -> nn.Module:
    """A layer is called like the neurons that stand behind a pooling in some networks of `fxsnn.insight.effects`."""
    layers = [("conv", nn.Conv2d(3, 4, 3)), ("relu", nn.ReLU()), ("pool", nn.AvgPool2d(2))]
    layers += [("pool_neurons", nn.Conv2d(4, 6, 3)), ("relu2", nn.ReLU())]
    layers += [("flat", nn.Flatten()), ("fc", nn.Linear(54, 5))]
    return nn.Sequential(OrderedDict(layers))


def without_classifier() -> nn.Module:
    """Convolutions only; global pooling gives the logits, and the tail has no parameters."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )


CONVERTIBLE: dict[str, Callable[[], nn.Module]] = {
    "modules": Small,
    "without batch norm": lambda: Small(norm=False, bias=True),
    "functional": Functional,
    "one relu": OneRelu,
    "dense": Dense,
    "hand-written": HandWritten,
    "without classifier": without_classifier,
}


def in_front(model: nn.Module, given: Tensor) -> Graph:
    """Through the front end, each pass verified in double precision."""
    graph = Pipeline(FRONT_END, given).run(fxsnn.capture(model, given))
    with torch.no_grad():
        torch.testing.assert_close(graph(given), model(given), rtol=1e-4, atol=1e-5)
    return graph
