"""Networks whose layers read several others, for the tests of sums, concatenations and what stands around them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxsnn
from tests.nets import seeded

UNPAIRED = fxsnn.HardwareTarget("unpaired", joins=("add", "concatenate"))
"""On which values with a sign are refused."""

Function = Callable[[Any, Tensor, Tensor], Tensor]


class Joined(nn.Module):
    """3x12x12: two branches of four channels, x and y, which `function` joins; a convolution reads the result."""

    def __init__(self, function: Function, channels: int = 4) -> None:
        super().__init__()
        self.function = function
        self.first, self.second, self.third = (nn.Conv2d(*sizes, 3, padding=1) for sizes in ((3, 4), (4, 4), (4, 4)))
        self.norm = nn.BatchNorm2d(channels)
        self.last, self.fc = nn.Conv2d(channels, 6, 3), nn.Linear(6, 5)

    def forward(self, images: Tensor) -> Any:
        x = F.relu(self.first(images))
        y = self.second(x)
        return self.fc(F.relu(self.last(self.function(self, x, y))).mean((2, 3)))


class Rows(nn.Module):
    """3x12x12: maps x of four channels and y of six, half as large, of which `function` makes rows of features.

    A hidden layer reads them, or the classifier.
    """

    def __init__(self, function: Function, features: int, hidden: bool) -> None:
        super().__init__()
        self.function, self.is_hidden = function, hidden
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 6, 3, stride=2)
        self.vector, self.hidden = nn.Linear(6 * 25, 7), nn.Linear(features, 12)
        self.fc = nn.Linear(12 if hidden else features, 5)

    def forward(self, images: Tensor) -> Any:
        x = F.relu(self.first(images))
        rows = self.function(self, x, F.relu(self.second(x)))
        return self.fc(F.relu(self.hidden(rows)) if self.is_hidden else rows)


def rows(function: Function, features: int, hidden: bool = True) -> Any:
    """Such a network with random weights, in evaluation mode."""
    return seeded(lambda: Rows(function, features, hidden))


def joined(function: Function, channels: int = 4) -> Any:
    """Such a network with random weights, in evaluation mode."""
    return seeded(lambda: Joined(function, channels))


def correlation(left: Tensor, right: Tensor) -> float:
    """Of all outputs of two networks."""
    return float(torch.corrcoef(torch.stack([left.flatten().double(), right.flatten().double()]))[0, 1])
