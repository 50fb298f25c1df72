"""The networks of the examples: ordinary PyTorch, nothing of fxsnn in them but where the trained weights lie.

All are legal on Hardware v1.0: `DigitNet` at 1 to 4 bits, the colour networks at 1 and 2 bits (at 3 with 37 channels,
at 4 with 28).
"""

from __future__ import annotations

from importlib import resources

import torch.nn.functional as F
from torch import Tensor, nn

from fxsnn.storage import load_weights


def conv_block(in_channels: int, out_channels: int, *, groups: int = 1, stride: int = 1) -> nn.Sequential:
    """A 3x3 convolution with batch norm and ReLU; at stride 1 it keeps the size of its map."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, groups=groups, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


class DigitNet(nn.Module):
    """Grey images [N, 1, 28, 28] to ten logits; two convolutions and a hidden fully connected layer.

    Dropout behind every layer makes the trained network robust against the noise that spike counts bring.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 28, 5, padding=2, bias=False)
        self.norm1 = nn.BatchNorm2d(28)
        self.conv2 = nn.Conv2d(28, 48, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(48)
        self.hidden = nn.Linear(48 * 7 * 7, 64)
        self.classifier = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, 10]."""
        x = F.avg_pool2d(F.relu(self.norm1(self.conv1(images))), 2)
        x = F.dropout(x, 0.2, self.training)
        x = F.avg_pool2d(F.relu(self.norm2(self.conv2(x))), 2)
        x = F.dropout(x, 0.2, self.training)
        x = F.relu(self.hidden(x.flatten(1)))
        return self.classifier(F.dropout(x, 0.2, self.training))


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


class GroupedColourNet(nn.Module):
    """Colour images [N, 3, 32, 32] to ten logits; six convolutions, wide where the maps are small.

    A chip limits the channels that a neuron reads, not those that a layer has: wide layers are cut into groups.

    Args:
        width: the most channels that any neuron reads.
    """

    def __init__(self, width: int = 56) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        in_channels = 3
        for index, out_channels in enumerate((28, 56, 112, 112, 112, 224)):
            layers.append(conv_block(in_channels, out_channels, groups=-(-in_channels // width)))
            if index % 2:
                layers.append(nn.AvgPool2d(2))
            in_channels = out_channels
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(in_channels * 4 * 4, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, 10]."""
        return self.classifier(self.features(images).flatten(1))


class StridedColourNet(nn.Module):
    """Colour images [N, 3, 32, 32] to ten logits; six convolutions, in groups as in `GroupedColourNet`.

    Maps shrink by strides, because a pooling layer is one more layer of neurons, which rounds and delays spikes. Only
    the last maps are averaged, adaptively: that is left to the computer that reads the chip.

    Args:
        width: the most channels that any neuron reads.
    """

    def __init__(self, width: int = 56) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        in_channels = 3
        for out_channels, stride in ((28, 1), (56, 1), (112, 2), (112, 1), (224, 2), (224, 1)):
            layers.append(conv_block(in_channels, out_channels, groups=-(-in_channels // width), stride=stride))
            in_channels = out_channels
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4))
        self.classifier = nn.Linear(in_channels * 4 * 4, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, 10]."""
        return self.classifier(self.features(images).flatten(1))


def digit_net() -> DigitNet:
    """The trained network that ships with fxsnn, in evaluation mode; 99.5 % on the test set of MNIST."""
    network = DigitNet()
    with resources.as_file(resources.files("fxsnn") / "embedded" / "digit_net.pt") as path:
        load_weights(network, path)
    return network.eval()


def network_for(dataset: str) -> nn.Module:
    """An untrained network for one of the data sets of `fxsnn.datasets`."""
    return ColourNet() if dataset == "CIFAR10" else DigitNet()
