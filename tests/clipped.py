"""Activations as people write them: ReLUs, ones with an upper end, and those of networks trained for conversion."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Own(nn.Module):
    """A layer of one's own: `function(self, x)`, with parameters by name."""

    def __init__(self, function: Callable[[Any, Tensor], Any], **parameters: Any) -> None:
        super().__init__()
        self.function = function
        for name, value in parameters.items():
            self.register_parameter(name, nn.Parameter(torch.as_tensor(value)))

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


class GradFloor(torch.autograd.Function):
    """Floor, with the gradient straight through."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, steps: int) -> Tensor:
        ctx.save_for_backward(x)
        return (x * steps + 0.5).floor() / steps

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return gradient, None


class Levels(nn.Module):
    """Clip, floor, shift (Bu et al. 2022), with a learned bound, as published code writes it."""

    def __init__(self, bound: float = 4.0, steps: int = 4) -> None:
        super().__init__()
        self.up, self.steps = nn.Parameter(torch.tensor([bound])), steps

    def forward(self, x: Tensor) -> Any:
        x = torch.clamp(x / self.up, 0, 1)
        return GradFloor.apply(x, self.steps) * self.up


class DetachedLevels(Levels):
    """The same without an autograd.Function."""

    def forward(self, x: Tensor) -> Any:
        y = (x / self.up).clamp(0, 1) * self.steps + 0.5
        return ((y.floor() - y).detach() + y) / self.steps * self.up


RELUS: Mapping[str, Callable[[], nn.Module]] = {
    "clamp(min=0)": lambda: Own(lambda _, x: x.clamp(min=0)),
    "clamp(0)": lambda: Own(lambda _, x: x.clamp(0)),
    "clip": lambda: Own(lambda _, x: torch.clip(x, 0)),
    "clamp_min": lambda: Own(lambda _, x: torch.clamp_min(x, 0)),
    "clamp_min_": lambda: Own(lambda _, x: x.clamp_min_(0)),
    "maximum": lambda: Own(lambda _, x: torch.maximum(x, torch.tensor(0.0))),
    "max of zeros_like": lambda: Own(lambda _, x: torch.max(x, torch.zeros_like(x))),
    "where": lambda: Own(lambda _, x: torch.where(x > 0, x, 0)),
    "where of zeros_like": lambda: Own(lambda _, x: torch.where(x <= 0, torch.zeros_like(x), x)),
    "times mask": lambda: Own(lambda _, x: x * (x > 0)),
    "times float mask": lambda: Own(lambda _, x: x * (x >= 0).float()),
    "times mask of its type": lambda: Own(lambda _, x: x * x.gt(0).to(x.dtype)),
    "masked_fill": lambda: Own(lambda _, x: x.masked_fill(x < 0, 0)),
    "half of x + |x|": lambda: Own(lambda _, x: (x + x.abs()) / 2),
    "Threshold": lambda: nn.Threshold(0, 0),
    "F.threshold": lambda: Own(lambda _, x: F.threshold(x, 0.0, 0.0)),
    "LeakyReLU": lambda: nn.LeakyReLU(0.0),
    "PReLU": lambda: nn.PReLU(init=0.0),
    "PReLU of 8 channels": lambda: nn.PReLU(8, init=0.0),
    "ReLU of ReLU": lambda: nn.Sequential(nn.ReLU(), nn.ReLU()),
}
BOUNDED: Mapping[str, tuple[Callable[[], nn.Module], float]] = {
    "ReLU6": (nn.ReLU6, 6.0),
    "ReLU6, in place": (lambda: nn.ReLU6(inplace=True), 6.0),
    "F.relu6": (lambda: Own(lambda _, x: F.relu6(x)), 6.0),
    "Hardtanh": (lambda: nn.Hardtanh(0, 1.5), 1.5),
    "F.hardtanh": (lambda: Own(lambda _, x: F.hardtanh(x, 0.0, 0.3, inplace=True)), 0.3),
    "clamp": (lambda: Own(lambda _, x: torch.clamp(x, 0, 1)), 1.0),
    "clamp by name": (lambda: Own(lambda _, x: x.clamp(min=0, max=0.1)), 0.1),
    "clamp of relu": (lambda: Own(lambda _, x: x.relu().clamp(max=2)), 2.0),
    "clamp_min, clamp_max": (lambda: Own(lambda _, x: x.clamp_min(0).clamp_max(0.7)), 0.7),
    "minimum": (lambda: Own(lambda _, x: torch.minimum(F.relu(x), torch.tensor(2.0))), 2.0),
    "min of a parameter": (lambda: Own(lambda m, x: torch.min(F.relu(x), m.top), top=3.0), 3.0),
    "min of a parameter [1, 1, 1, 1]": (lambda: Own(lambda m, x: x.relu().min(m.top), top=[[[[1.25]]]]), 1.25),
    "clamp between tensors": (lambda: Own(lambda m, x: torch.clamp(x, torch.zeros(1), m.top), top=[0.6]), 0.6),
    "clamp up to a number of a parameter": (lambda: Own(lambda m, x: x.clamp(0, m.top.item()), top=[0.8]), 0.8),
    "min of max": (lambda: Own(lambda m, x: torch.min(torch.max(x, torch.tensor([0.0])), m.top), top=[0.4]), 0.4),
    "scaled": (lambda: Own(lambda m, x: (x / m.top).clamp(0, 1) * m.top, top=[0.9]), 0.9),
    "scaled by an exponential": (lambda: Own(lambda m, x: (x / m.a.exp()).clamp(0, 1) * m.a.exp(), a=0.0), 1.0),
    "PACT": (lambda: Own(lambda m, x: 0.5 * (x.abs() - (x - m.a).abs() + m.a), a=2.5), 2.5),
}
LEVELS: Mapping[str, tuple[Callable[[], nn.Module], float, int]] = {
    "autograd.Function": (Levels, 4.0, 4),
    "detach": (lambda: DetachedLevels(1.5, 8), 1.5, 8),
    "one level": (lambda: Levels(0.5, 1), 0.5, 1),
    "round": (lambda: Own(lambda m, x: (x.clamp(0, 1) * 15).round() / 15), 1.0, 15),
    "data": (lambda: Own(lambda m, x: (lambda y: y + ((y + 0.5).floor() - y).data)(x.clamp(0, 3))), 3.0, 3),
    "int": (lambda: Own(lambda m, x: (x / m.c * 4 + 0.5).clamp(0, 4).int().float() / 4 * m.c, c=2.0), 2.0, 4),
    "long, and the type of x": (lambda: Own(lambda _, x: (x * 4 + 0.5).long().to(x.dtype).clamp(0, 4) / 4), 1.0, 4),
    "fake quantisation": (lambda: Own(lambda _, x: torch.fake_quantize_per_tensor_affine(x, 0.1, 0, 0, 15)), 1.5, 15),
    "greater than a half": (lambda: Own(lambda _, x: (x > 0.5).float()), 1.0, 1),
}
SHIFTED: Mapping[str, tuple[Callable[[], nn.Module], float, int | None]] = {
    "Hardsigmoid": (nn.Hardsigmoid, 6.0, None),
    "F.hardsigmoid": (lambda: Own(lambda _, x: F.hardsigmoid(x)), 6.0, None),
    "hard sigmoid by hand": (lambda: Own(lambda _, x: (0.2 * x + 0.5).clamp(0, 1)), 1.0, None),
    "Hardtanh": (nn.Hardtanh, 2.0, None),
    "Hardtanh by absolute values": (lambda: Own(lambda _, x: ((x + 1).abs() - (x - 1).abs()) * 0.5), 2.0, None),
    "from 0.1 on": (lambda: Own(lambda _, x: x.clamp(0.1, 1)), 0.9, None),
    "downwards": (lambda: Own(lambda _, x: torch.where(x > 1, -1.0, torch.where(x < 0, 1.0, 1 - 2 * x))), 1.0, None),
    "without an upper end": (lambda: Own(lambda _, x: x.clamp(min=-1)), inf, None),
    "Threshold": (lambda: nn.Threshold(0.2, 0.2), inf, None),
    "without a lower end": (lambda: Own(lambda _, x: x.clamp(max=1)), inf, None),
    "floor": (lambda: Own(lambda m, x: (x / m.c).clamp(0, 1).mul(4).floor() / 4 * m.c, c=2.0), 1.0, 4),
    "floor by int": (lambda: Own(lambda m, x: (x / m.c).clamp(0, 1).mul(4).int().float() / 4 * m.c, c=2.0), 1.0, 4),
    "round from -1 on": (lambda: Own(lambda _, x: (x.clamp(-1, 1) * 4).round() / 4), 2.0, 8),
    "fake quantisation with a zero point": (
        lambda: Own(lambda _, x: torch.fake_quantize_per_tensor_affine(x, 0.25, 4, 0, 15)),
        3.75,
        15,
    ),
}
"""Activations beside the origin: the upper end and the levels of what they are, scaled and shifted."""
_TOPS = torch.linspace(0.2, 1, 8).view(8, 1, 1)
BOUNDED_CHANNELS: Mapping[str, Callable[[], nn.Module]] = {
    "minimum": lambda: Own(lambda m, x: x.relu().minimum(m.tops), tops=_TOPS),
    "min of a buffer of images": lambda: Own(lambda m, x: torch.min(F.relu(x), m.tops), tops=_TOPS[None]),
    "clamp between tensors": lambda: Own(lambda m, x: x.clamp(torch.zeros(1), m.tops), tops=_TOPS),
    "where": lambda: Own(lambda m, x: torch.where(x > m.tops, m.tops, x.relu()), tops=_TOPS),
    "scaled": lambda: Own(lambda m, x: (x / m.tops).clamp(0, 1) * m.tops, tops=_TOPS),
    "PACT": lambda: Own(lambda m, x: 0.5 * (x.abs() - (x - m.tops).abs() + m.tops), tops=_TOPS),
    "levels": lambda: Own(lambda m, x: ((x / m.tops).clamp(0, 1) * 4 + 0.5).floor() / 4 * m.tops, tops=_TOPS),
}
"""Upper ends that differ between the 8 channels."""
REFUSED: Mapping[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module]]] = {
    "ceil": (lambda: Own(lambda _, x: (x.clamp(0, 1) * 4).ceil() / 4), nn.ReLU6),
    "ceil of a quotient": (
        lambda: Own(lambda m, x: (x / m.c).clamp(0, 1).mul(4).ceil() / 4 * m.c, c=2.0),
        lambda: Own(lambda m, x: (x / m.c).clamp(0, 1).mul(4).add(0.5).floor() / 4 * m.c, c=2.0),
    ),
    "LeakyReLU": (nn.LeakyReLU, nn.ReLU),
    "PReLU": (lambda: nn.PReLU(8, init=0.01), nn.ReLU),
    "Sigmoid": (nn.Sigmoid, nn.ReLU),
    "GELU": (nn.GELU, nn.ReLU6),
    "swish by hand": (lambda: Own(lambda _, x: x * torch.sigmoid(x)), nn.ReLU),
    "hard swish by hand": (lambda: Own(lambda _, x: x * F.relu6(x + 3) / 6), nn.ReLU6),
}
"""What is refused, and what the remedy makes of it."""


def network(*activations: nn.Module) -> nn.Sequential:
    """[N, 3, 12, 12], a convolution of 8 channels for each activation; 5 classes."""
    layers: list[nn.Module] = []
    for place, activation in enumerate(activations):
        layers += [nn.Conv2d(8 if place else 3, 8, 3, padding=1), nn.BatchNorm2d(8), activation]
    return nn.Sequential(*layers, nn.AvgPool2d(4), nn.Flatten(), nn.Linear(72, 5))
