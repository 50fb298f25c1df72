"""The networks of the examples: ordinary PyTorch, nothing of fxsnn in them.

`DigitNet` lies in fxsnn, which ships with trained weights for it: `fxsnn.datasets.digit_net()`.

Legal on Hardware v1.0: `DigitNet` at 1 to 4 bits, `ColourNet` and `StridedColourNet` at 1 and 2 bits, and at 3 and 4
with 28 channels. `PoolingVGG`, `ResNet20` and `SeparableNet` are what people have, for `generic`: the first two add up
spikes, the last one has kernels of 1x1.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from fxsnn.data import DigitNet

__all__ = ["ColourNet", "DigitNet", "PoolingVGG", "ResNet20", "SeparableNet", "StridedColourNet", "network_for"]


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


class PoolingVGG(nn.Module):
    """Colour images [N, 3, 32, 32] to ten logits; six convolutions, three poolings.

    Args:
        pool: of windows of 2x2, `nn.MaxPool2d` or `nn.AvgPool2d`.
    """

    def __init__(self, pool: type[nn.Module] = nn.MaxPool2d) -> None:
        super().__init__()
        self.features = nn.Sequential(
            conv_block(3, 32), conv_block(32, 32), pool(2),
            conv_block(32, 64), conv_block(64, 64), pool(2),
            conv_block(64, 128), conv_block(128, 128), pool(2),
        )  # fmt: skip
        self.classifier = nn.Linear(128 * 4 * 4, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, 10]."""
        return self.classifier(self.features(images).flatten(1))


def separable_block(in_channels: int, out_channels: int, stride: int = 1) -> nn.Sequential:
    """A depthwise 3x3 and a pointwise convolution, each with batch norm and ReLU."""
    return nn.Sequential(
        *conv_block(in_channels, in_channels, width=1, stride=stride),
        nn.Conv2d(in_channels, out_channels, 1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


class SeparableNet(nn.Module):
    """Colour images [N, 3, 32, 32] to ten logits: depthwise separable convolutions as in MobileNet (Howard et al. 2017,
    arXiv 1704.04861), for small images.
    """

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            conv_block(3, 32), separable_block(32, 64),
            separable_block(64, 128, 2), separable_block(128, 128),
            separable_block(128, 256, 2), separable_block(256, 256), nn.AdaptiveAvgPool2d(1),
        )  # fmt: skip
        self.classifier = nn.Linear(256, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, 10]."""
        return self.classifier(self.features(images).flatten(1))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and what they read, added up: `ReLU(f(x) + x)`.

    Where the map shrinks or channels grow, a 1x1 convolution makes of x what can be added.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.first = conv_block(in_channels, out_channels, stride=stride)
        self.second = nn.Sequential(*conv_block(out_channels, out_channels)[:2])
        same = stride == 1 and in_channels == out_channels
        self.shortcut = (
            nn.Identity()
            if same
            else nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )
        )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, C', H', W']."""
        return self.relu(self.second(self.first(x)) + self.shortcut(x))


class ResNet20(nn.Module):
    """Colour images [N, 3, 32, 32] to ten logits: the ResNet of 20 layers (He et al. 2016, arXiv 1512.03385, 4.2).

    Its shortcuts that change channels are 1x1 convolutions (option B there).

    Args:
        width: channels of the first of three stages; 16 there.
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        blocks = (
            *(ResidualBlock(width, width) for _ in range(3)),
            ResidualBlock(width, 2 * width, 2), *(ResidualBlock(2 * width, 2 * width) for _ in range(2)),
            ResidualBlock(2 * width, 4 * width, 2), *(ResidualBlock(4 * width, 4 * width) for _ in range(2)),
        )  # fmt: skip
        self.features = nn.Sequential(conv_block(3, width), *blocks, nn.AdaptiveAvgPool2d(1))
        self.classifier = nn.Linear(4 * width, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, 10]."""
        return self.classifier(self.features(images).flatten(1))


def network_for(dataset: str) -> nn.Module:
    """An untrained network for one of the data sets of `fxsnn.datasets`."""
    return ColourNet() if dataset == "CIFAR10" else DigitNet()
