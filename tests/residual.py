"""Small networks whose activations are read by several layers, and whose sums are neurons of several inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from tests.nets import seeded


class Block(nn.Module):
    """A basic block of residual networks; the way around it is the input itself, or a convolution of it."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.down: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            self.down = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.down(x))


class Residual(nn.Module):
    """3x12x12: a stem, a block around which spikes go as they are, one around which they go through a convolution."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.block1, self.block2 = Block(6, 6, 1), Block(6, 8, 2)
        self.fc = nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Any:
        x = self.block2(self.block1(F.relu(self.norm(self.stem(x)))))
        return self.fc(x.mean((2, 3)))


class FirstIsASum(nn.Module):
    """Neurons that add up two convolutions of the images and the images themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 1, bias=False)
        self.fc = nn.Linear(3, 5)

    def forward(self, x: Tensor) -> Any:
        return self.fc(F.relu(self.one(x) - 0.5 * self.other(x) + x).mean((2, 3)))


class NoWeights(nn.Module):
    """A difference and a sum of spikes without any weights, in front of a pooling that two layers read."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 3, padding=1)
        self.left, self.right = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, padding=1)
        self.pool = nn.AvgPool2d(2)
        self.fc = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Any:
        a, b = F.relu(self.one(x)), F.relu(self.other(x))
        a = self.pool(F.relu(a + F.relu(b - a)))
        a = F.relu(self.left(a)) + F.relu(self.right(a)) + a
        return self.fc(F.relu(a).mean((2, 3)))


class Dense(nn.Module):
    """Features that are summed: of a hidden layer, and as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=3)
        self.hidden, self.again = nn.Linear(64, 64), nn.Linear(64, 64, bias=False)
        self.fc = nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Any:
        x = F.relu(self.conv(x)).flatten(1)
        x = F.relu(self.hidden(x) + x)
        return self.fc(F.relu(self.again(x) + 2 * x))


RESIDUAL: dict[str, Callable[[], nn.Module]] = {
    "blocks": lambda: seeded(Residual),
    "first is a sum": lambda: seeded(FirstIsASum),
    "no weights": lambda: seeded(NoWeights),
    "dense": lambda: seeded(Dense),
}
