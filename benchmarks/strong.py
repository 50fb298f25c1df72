"""A strong network for CIFAR-10 that is legal on Hardware v1.0, and its training on a GPU in minutes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F
from accuracy_training import Data, Recipe, trained
from torch import Tensor, nn

RECIPE = Recipe(lr=0.2, batch_size=256, shift=4, flip=True, precision="bfloat16")
_CHANNELS = ((112, 1), (112, 1), (224, 2), (224, 1), (224, 1), (448, 2), (448, 1), (448, 1), (448, 1))
"""Of each convolution: its channels, and its stride."""
_TIMED = 30

WIDTHS: Mapping[int, tuple[int, ...]] = {56: (2, 1), 28: (4,)}
"""The most channels that a neuron reads, and the weight bits at which Hardware v1.0 allows them."""
FINETUNE: Mapping[str, Any] = {"epochs": 3, "spiking_epochs": 1, "lr": 0.02, "distillation": 0.5}
"""Options of the fine-tuning."""


class DenselyRun(nn.Conv2d):
    """A convolution in groups that is run as one of all channels, with zeros between groups: GPUs are made for that."""

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W], as a convolution in groups gives it."""
        outputs, inputs, *kernel = self.weight.shape
        groups = torch.arange(self.groups, device=x.device)
        dense = self.weight.new_zeros(self.groups, outputs // self.groups, self.groups, inputs, *kernel)
        dense[groups, :, groups] = self.weight.view(self.groups, -1, inputs, *kernel)
        return F.conv2d(x, dense.view(outputs, -1, *kernel), self.bias, self.stride, self.padding)


class ShuffledVGG(nn.Module):
    """Colour images [N, 3, 32, 32] to ten logits: nine convolutions of 3x3, all but the first in groups.

    Channels are shuffled behind each of them, so that groups tell each other what they saw (Zhang et al. 2018,
    arXiv 1707.01083); on the chip, that is wiring.

    Args:
        width: the most channels that any neuron reads: 56 at 2 bits, 28 at 4.
        conv: what convolutions are, `DenselyRun` in training.
    """

    def __init__(self, width: int = 56, conv: type[nn.Conv2d] = nn.Conv2d) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for outputs, stride in _CHANNELS:
            groups = -(-channels // width)
            layers += [conv(channels, outputs, 3, stride, 1, groups=groups, bias=False), nn.BatchNorm2d(outputs)]
            layers += [nn.ReLU(inplace=True), nn.ChannelShuffle(max(1, outputs // width))]
            channels = outputs
        self.features = nn.Sequential(*layers[:-1], nn.AdaptiveAvgPool2d(2))
        self.classifier = nn.Linear(channels * 4, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, 10]."""
        return self.classifier(self.features(images).flatten(1))


def strong(width: int, data: Data, seed: int, path: Path, seconds: float) -> tuple[nn.Module, int]:
    """The network of that width, trained for as many epochs as fit into so many seconds, and how many these were."""
    recipe = replace(RECIPE, epochs=epochs_within(seconds, width, data))
    network, _ = trained(partial(ShuffledVGG, width, DenselyRun), data, recipe, seed, path)
    plain = ShuffledVGG(width).to(data.train[0].device)
    state: Mapping[str, Tensor] = network.state_dict()
    plain.load_state_dict(state)
    return plain.eval(), recipe.epochs


def epochs_within(seconds: float, width: int, data: Data) -> int:
    """How many epochs of training fit into that time, from the time of a few iterations."""

    def first(part: tuple[Tensor, Tensor], count: int) -> tuple[Tensor, Tensor]:
        return part[0][:count], part[1][:count]

    some = Data(first(data.train, _TIMED * RECIPE.batch_size), first(data.held_out, 500), first(data.test, 500))
    recipe, times = replace(RECIPE, epochs=1), []
    with TemporaryDirectory() as folder:
        for run in range(2):  # the first one finds out how to run on this device
            build = partial(ShuffledVGG, width, DenselyRun)
            times.append(trained(build, some, recipe, 0, Path(folder) / f"{run}.pt")[1])
    return max(1, int(seconds / (times[-1] * len(data.train[0]) / len(some.train[0]))))
