"""Networks with sums of several inputs, converted, and such with wiring."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxsnn
from fxsnn.layers import Concat, Wiring
from tests.nets import images, seeded
from tests.random_networks import quiet
from tests.spiking_graphs import SpikingGraph


class Block(nn.Module):
    """Two convolutions beside their input, or beside a convolution of it."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.norm2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.down = None if stride == 1 else nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        beside = x if self.down is None else self.down(x)
        return F.relu(self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))) + beside)


class Residual(nn.Module):
    """3x12x12: a block that adds its input, one that adds a convolution of it, and their average."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), Block(4, 4, 1), Block(4, 6, 2)
        self.pool, self.fc = nn.AvgPool2d(2), nn.Linear(54, 5)

    def forward(self, x: Tensor) -> Any:
        return self.fc(self.pool(self.second(self.first(F.relu(self.stem(x))))).flatten(1))


class Dense(nn.Module):
    """Vectors of 20 numbers: a hidden layer beside its input."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.beside, self.fc = nn.Linear(20, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Any:
        x = F.relu(self.first(x))
        return self.fc(F.relu(self.beside(x) - x))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "residual": (Residual, images(16)),
    "of vectors": (Dense, torch.randn(16, 20, generator=torch.Generator().manual_seed(0))),
}


def converted(name: str = "residual", **options: Any) -> fxsnn.SpikingNetwork:
    build, given = NETWORKS[name]
    chosen: dict[str, Any] = {"target": "generic", "bits": 4, "timesteps": 6, "codebook": "symmetric"}
    chosen["average_pool"] = "plain"
    chosen |= {"calibration_data": given, "correction": None, **options}
    with quiet():
        return fxsnn.convert(seeded(build), **chosen)


def pooled() -> fxsnn.SpikingNetwork:
    """With a pooling by any neuron of a window."""
    layers = {"first": nn.Conv2d(3, 4, 3), "relu": nn.ReLU(), "pool": nn.MaxPool2d(2), "second": nn.Conv2d(4, 4, 3)}
    model = nn.Sequential(OrderedDict(layers, last=nn.ReLU(), flatten=nn.Flatten(), fc=nn.Linear(36, 5)))
    with quiet():
        given: dict[str, Any] = {"target": "generic", "bits": 4, "codebook": "symmetric", "max_pool": "any"}
        return fxsnn.convert(model.eval(), calibration_data=images(8), correction=None, **given)


def wired(*layers: Wiring) -> fxsnn.SpikingNetwork:
    """Each behind a convolution, and read by another one."""
    make = SpikingGraph(seed=3)
    made = make.conv(make.images, 4)
    for layer in layers:
        beside = (made, make.conv(made, 2, 1)) if isinstance(layer, Concat) else (made,)
        made = make.conv(make.wire(layer, *beside), 4, 1)
    return make.network(made)
