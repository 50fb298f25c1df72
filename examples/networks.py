"""The networks of the examples: ordinary PyTorch, nothing of fxsnn in them.

`DigitNet` lies in fxsnn, which ships with trained weights for it: `fxsnn.datasets.digit_net()`.

All are legal on Hardware v1.0: `DigitNet` at 1 to 4 bits, the colour networks at 1 and 2 bits, and at 3 and 4 with 28
channels.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from fxsnn.data import DigitNet

__all__ = ["ColourNet", "DigitNet", "StridedColourNet", "network_for"]


def conv_block(in_channels: int, out_channels: int, *, width: int | None = None, stride: int = 1) -> nn.Sequential:
    """A 3x3 convolution with batch norm and ReLU; at stride 1 it keeps the size of its map.

    A chip limits the channels that a neuron reads, not those that a layer has: where there are more than `width`, the
    layer is cut into groups.
    """
    groups = 1 if width is None else -(-in_channels // width)
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, groups=groups, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


class ColourNet(nn.Module):
    """Colour images [N, 3, 32, 32] to ten logits; six convolutions.

    Args:
        width: channels into each convolution but the first.
    """

    def __init__(self, width: int = 56) -> None:
        super().__init__()
        self.features = nn.Sequential(
            conv_block(3, width), conv_block(width, width), nn.AvgPool2d(2),
            conv_block(width, width), conv_block(width, width), nn.AvgPool2d(2),
            conv_block(width, width), conv_block(width, 2 * width), nn.AvgPool2d(2),
        )  # fmt: skip
        self.classifier = nn.Linear(2 * width * 4 * 4, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, 10]."""
        return self.classifier(self.features(images).flatten(1))


class StridedColourNet(nn.Module):
    """Colour images [N, 3, 32, 32] to ten logits; six convolutions in groups, wide where the maps are small.

    Maps shrink by strides, because a pooling layer is one more layer of neurons, which rounds and delays spikes. Only
    the last maps are averaged, adaptively: that is left to the computer that reads the chip. At width 56 the groups of
    the fifth convolution reach over those of the fourth; at 28 two halves stay apart from the third to the last.

    Args:
        width: the most channels that any neuron reads, 28 or 56.
    """

    def __init__(self, width: int = 56) -> None:
        super().__init__()
        block = partial(conv_block, width=width)
        first = min(width, 32)
        self.features = nn.Sequential(
            block(3, first), block(first, 56),
            block(56, 112, stride=2), block(112, 168),
            block(168, 336, stride=2), block(336, 336), nn.AdaptiveAvgPool2d(4),
        )  # fmt: skip
        self.classifier = nn.Linear(336 * 4 * 4, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, 10]."""
        return self.classifier(self.features(images).flatten(1))


def network_for(dataset: str) -> nn.Module:
    """An untrained network for one of the data sets of `fxsnn.datasets`."""
    return ColourNet() if dataset == "CIFAR10" else DigitNet()
