"""Networks of papers about CIFAR-10, MNIST and event cameras, after their descriptions, for `zoo.py`.

Where a paper's neurons spike already, a ReLU stands in their place, as in the network that one would train and convert.
Dropout is left out: it rests when a network is converted. Sums over votes for a class are left to the last layer.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MNIST, CIFAR, GESTURE = (1, 28, 28), (3, 32, 32), (2, 128, 128)


@dataclass(frozen=True)
class Paper:
    """A network of a paper.

    Attributes:
        build: makes it.
        size: of its images, channels first.
        source: who describes it.
    """

    build: Callable[[], nn.Module]
    size: tuple[int, int, int]
    source: str


def _conv(here: int, there: int, kernel: int = 3, stride: int = 1, groups: int = 1, act: bool = True) -> nn.Sequential:
    """Convolution that keeps the size of maps at stride 1, batch norm, and a ReLU unless there is to be none."""
    conv = nn.Conv2d(here, there, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(there), *([nn.ReLU()] if act else []))


def _head(channels: int, classes: int = 10) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)]


# Chains ---------------------------------------------------------------------------------------------------------------


def _lenet5(pool: type[nn.Module]) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), pool(2), nn.Conv2d(6, 16, 5), nn.ReLU(), pool(2), nn.Flatten(),
        nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    )  # fmt: skip


def _fully_connected() -> nn.Module:
    layers = [nn.Linear(784, 1200), nn.ReLU(), nn.Linear(1200, 1200), nn.ReLU(), nn.Linear(1200, 10)]
    return nn.Sequential(nn.Flatten(), *layers)


def _two_convolutions(channels: int, side: int, padding: int = 0) -> nn.Module:
    """12c5-2s-64c5-2s-10o: convolutions, each with an average pooling."""
    rows = (((side + 2 * padding - 4) // 2) - 4) // 2
    return nn.Sequential(
        nn.Conv2d(channels, 12, 5, padding=padding), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(12, 64, 5), nn.ReLU(),
        nn.AvgPool2d(2), nn.Flatten(), nn.Linear(64 * rows * rows, 10),
    )  # fmt: skip


_VGG = {
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
"""Convolutions of 64, 128, 256, 512 and 512 channels, a pooling behind each row of them."""


class QuantisedClip(nn.Module):
    """An activation of `levels` steps up to a trained end, half a step to the left."""

    def __init__(self, levels: int = 8) -> None:
        super().__init__()
        self.levels, self.end = levels, nn.Parameter(torch.tensor(4.0))

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        return torch.floor((x / self.end).clamp(0, 1) * self.levels + 0.5) / self.levels * self.end


def _vgg(
    depth: int,
    *,
    norm: bool = True,
    pool: type[nn.Module] = nn.MaxPool2d,
    activation: Callable[[], nn.Module] = nn.ReLU,
) -> nn.Module:
    layers: list[nn.Module] = []
    here = 3
    for there, count in zip((64, 128, 256, 512, 512), _VGG[depth], strict=True):
        for _ in range(count):
            layers += [nn.Conv2d(here, there, 3, padding=1), *([nn.BatchNorm2d(there)] if norm else []), activation()]
            here = there
        layers.append(pool(2))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, 10))


def _cifarnet() -> nn.Module:
    return nn.Sequential(
        _conv(3, 128), _conv(128, 256), nn.AvgPool2d(2), _conv(256, 512), nn.AvgPool2d(2), _conv(512, 1024),
        _conv(1024, 512), nn.Flatten(), nn.Linear(512 * 64, 1024), nn.ReLU(), nn.Linear(1024, 512), nn.ReLU(),
        nn.Linear(512, 10),
    )  # fmt: skip


def _all_convolutional() -> nn.Module:
    """All-CNN-C."""
    plan = ((3, 96, 3, 1), (96, 96, 3, 1), (96, 96, 3, 2), (96, 192, 3, 1), (192, 192, 3, 1), (192, 192, 3, 2))
    layers = [[nn.Conv2d(one, two, kernel, stride, 1), nn.ReLU()] for one, two, kernel, stride in plan]
    last = [nn.Conv2d(192, 192, 3), nn.ReLU(), nn.Conv2d(192, 192, 1), nn.ReLU(), nn.Conv2d(192, 10, 1), nn.ReLU()]
    return nn.Sequential(*itertools.chain(*layers), *last, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def _network_in_network() -> nn.Module:
    def block(here: int, widths: Sequence[int], kernel: int) -> list[nn.Module]:
        sides = zip((here, *widths), widths, (kernel, 1, 1), strict=False)
        return [
            layer for one, two, side in sides for layer in (nn.Conv2d(one, two, side, padding=side // 2), nn.ReLU())
        ]

    return nn.Sequential(
        *block(3, (192, 160, 96), 5), nn.MaxPool2d(3, 2, 1), *block(96, (192, 192, 192), 5), nn.AvgPool2d(3, 2, 1),
        *block(192, (192, 192, 10), 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip


def _yolo_tiny() -> nn.Module:
    """The layers in front of Tiny YOLO's boxes, with ten classes in their place."""
    layers: list[nn.Module] = []
    for here, there in itertools.pairwise((3, 16, 32, 64, 128, 256)):
        layers += [_conv(here, there, act=False), nn.LeakyReLU(0.1), nn.MaxPool2d(2)]
    last = [_conv(256, 512, act=False), nn.LeakyReLU(0.1), _conv(512, 1024, act=False), nn.LeakyReLU(0.1)]
    return nn.Sequential(*layers, *last, *_head(1024))


# Event cameras --------------------------------------------------------------------------------------------------------


def _plif_gesture() -> nn.Module:
    blocks = [layer for here in (2, *[128] * 4) for layer in (_conv(here, 128), nn.MaxPool2d(2))]
    return nn.Sequential(*blocks, nn.Flatten(), nn.Linear(128 * 16, 512), nn.ReLU(), nn.Linear(512, 11))


def _plif_digits() -> nn.Module:
    blocks = [_conv(2, 128), nn.MaxPool2d(2), _conv(128, 128), nn.MaxPool2d(2)]
    return nn.Sequential(*blocks, nn.Flatten(), nn.Linear(128 * 64, 2048), nn.ReLU(), nn.Linear(2048, 10))


def _slayer_gesture() -> nn.Module:
    return nn.Sequential(
        nn.AvgPool2d(4), nn.Conv2d(2, 16, 5, padding=2), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(32 * 64, 512), nn.ReLU(), nn.Linear(512, 11),
    )  # fmt: skip


def _vgg_events() -> nn.Module:
    """64C3-128C3-AP2-256C3-256C3-AP2-512C3-512C3-AP2-512C3-512C3-AP2-FC."""
    layers: list[nn.Module] = []
    here = 2
    for widths in ((64, 128), (256, 256), (512, 512), (512, 512)):
        for there in widths:
            layers.append(_conv(here, there))
            here = there
        layers.append(nn.AvgPool2d(2))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(512 * 9, 10))


# Residual networks ----------------------------------------------------------------------------------------------------


class _Padded(nn.Module):
    """Shortcut "A": every second place, and channels of zeros."""

    def __init__(self, more: int) -> None:
        super().__init__()
        self.more = more

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.more // 2, self.more - self.more // 2))


class _Block(nn.Module):
    """Two convolutions and a shortcut; the ReLU stands behind the sum, or in front of it ("sew")."""

    def __init__(self, here: int, there: int, stride: int, *, shortcut: str = "B", late: bool = True) -> None:
        super().__init__()
        self.body = nn.Sequential(_conv(here, there, 3, stride), _conv(there, there, act=not late))
        same = stride == 1 and here == there
        wider = _Padded(there - here) if shortcut == "A" else _conv(here, there, 1, stride, act=not late)
        self.shortcut: nn.Module = nn.Identity() if same else wider
        self.last = nn.ReLU() if late else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.body(x) + self.shortcut(x))
        return out


class _PreActivated(nn.Module):
    """Batch norm and ReLU in front of each convolution; nothing behind the sum."""

    def __init__(self, here: int, there: int, stride: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(here), nn.BatchNorm2d(there)
        self.conv1 = nn.Conv2d(here, there, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(there, there, 3, 1, 1, bias=False)
        self.shortcut = None if stride == 1 and here == there else nn.Conv2d(here, there, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.norm1(x))
        kept = x if self.shortcut is None else self.shortcut(out)
        out = self.conv2(F.relu(self.norm2(self.conv1(out))))
        out += kept
        return out


class _Grouped(nn.Module):
    """A bottleneck whose middle convolution has groups."""

    def __init__(self, here: int, there: int, stride: int, groups: int, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _conv(here, width, 1), _conv(width, width, 3, stride, groups), _conv(width, there, 1, act=False)
        )
        self.shortcut = nn.Identity() if here == there else _conv(here, there, 1, stride, act=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


def _stages(
    block: Callable[[int, int, int], nn.Module], start: int, widths: Sequence[int], count: Sequence[int], first: int = 1
) -> list[nn.Module]:
    """Blocks in stages, which begin with a stride of 2; the first with `first`."""
    layers, here = [], start
    for number, (there, blocks) in enumerate(zip(widths, count, strict=True)):
        for place in range(blocks):
            layers.append(block(here, there, (2 if number else first) if place == 0 else 1))
            here = there
    return layers


def _resnet(depth: int, shortcut: str = "A") -> nn.Module:
    count = [(depth - 2) // 6] * 3
    blocks = _stages(partial(_Block, shortcut=shortcut), 16, (16, 32, 64), count)
    return nn.Sequential(_conv(3, 16), *blocks, *_head(64))


def _resnet18() -> nn.Module:
    return nn.Sequential(_conv(3, 64), *_stages(_Block, 64, (64, 128, 256, 512), [2] * 4), *_head(512))


def _resnet8() -> nn.Module:
    return nn.Sequential(_conv(3, 16), *_stages(_Block, 16, (16, 32, 64), [1] * 3), *_head(64))


def _resnet19() -> nn.Module:
    blocks = _stages(_Block, 128, (128, 256, 512), (3, 3, 2))
    return nn.Sequential(
        _conv(3, 128), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 256), nn.ReLU(),
        nn.Linear(256, 10),
    )  # fmt: skip


def _preactivated18() -> nn.Module:
    blocks = _stages(_PreActivated, 64, (64, 128, 256, 512), [2] * 4)
    return nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1, bias=False), *blocks, nn.BatchNorm2d(512), nn.ReLU(), *_head(512)
    )


def _wide_resnet(depth: int, factor: int) -> nn.Module:
    widths = [factor * width for width in (16, 32, 64)]
    blocks = _stages(_PreActivated, 16, widths, [(depth - 4) // 6] * 3)
    stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
    return nn.Sequential(stem, *blocks, nn.BatchNorm2d(widths[-1]), nn.ReLU(), *_head(widths[-1]))


def _resnext29() -> nn.Module:
    """ResNeXt-29, 2x64d."""
    layers: list[nn.Module] = [_conv(3, 64)]
    here = 64
    for number, there in enumerate((256, 512, 1024)):
        for place in range(3):
            layers.append(_Grouped(here, there, 2 if number and place == 0 else 1, 2, there // 2))
            here = there
    return nn.Sequential(*layers, *_head(1024))


def _sew_resnet18() -> nn.Module:
    """Spike-element-wise residual blocks that add: a ReLU in front of each sum, none behind."""
    blocks = _stages(partial(_Block, late=False), 64, (64, 128, 256, 512), [2] * 4)
    return nn.Sequential(_conv(3, 64, 7, 2), nn.MaxPool2d(3, 2, 1), *blocks, *_head(512, 1000))


def _sew_gesture() -> nn.Module:
    """7B-Net: seven such blocks of 32 channels, a max pooling behind each."""
    blocks = [layer for _ in range(7) for layer in (_Block(32, 32, 1, late=False), nn.MaxPool2d(2))]
    return nn.Sequential(_conv(2, 32, 1), *blocks, nn.Flatten(), nn.Linear(32, 11))


# Concatenation, separable convolutions, shuffles ----------------------------------------------------------------------


class _DenseLayer(nn.Module):
    """A bottleneck in front of what is put behind the channels that are there."""

    def __init__(self, here: int, growth: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(here), nn.Conv2d(here, 4 * growth, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(4 * growth), nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(F.relu(self.norm1(x)))
        return torch.cat([x, self.conv2(F.relu(self.norm2(out)))], 1)


def _densenet40() -> nn.Module:
    """DenseNet-BC, 40 layers, growth of 12."""
    growth, channels = 12, 24
    layers: list[nn.Module] = [nn.Conv2d(3, channels, 3, padding=1, bias=False)]
    for number in range(3):
        for _ in range(6):
            layers.append(_DenseLayer(channels, growth))
            channels += growth
        if number < 2:  # the last block has no transition behind it
            narrow = nn.Conv2d(channels, channels // 2, 1, bias=False)
            layers += [nn.BatchNorm2d(channels), nn.ReLU(), narrow, nn.AvgPool2d(2)]
            channels //= 2
    return nn.Sequential(*layers, nn.BatchNorm2d(channels), nn.ReLU(), *_head(channels))


def _mobilenet() -> nn.Module:
    plan = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))
    layers: list[nn.Module] = [_conv(3, 32)]
    here = 32
    for there, stride in plan:
        layers += [_conv(here, here, 3, stride, here), _conv(here, there, 1)]
        here = there
    return nn.Sequential(*layers, *_head(1024))


class _Inverted(nn.Module):
    """A wide separable convolution between narrow maps, which have no activation."""

    def __init__(self, here: int, there: int, stride: int, wider: int) -> None:
        super().__init__()
        wide = here * wider
        self.body = nn.Sequential(
            *([_conv(here, wide, 1)] if wider > 1 else []), _conv(wide, wide, 3, stride, wide),
            _conv(wide, there, 1, act=False),
        )  # fmt: skip
        self.adds = stride == 1 and here == there

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x)
        return x + out if self.adds else out


def _mobilenet_v2() -> nn.Module:
    plan = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    layers: list[nn.Module] = [_conv(3, 32)]
    here = 32
    for wider, there, count, first in plan:
        for place in range(count):
            layers.append(_Inverted(here, there, first if place == 0 else 1, wider))
            here = there
    return nn.Sequential(*layers, _conv(320, 1280, 1), *_head(1280))


class _Shuffled(nn.Module):
    """ShuffleNet's unit: pointwise convolutions in groups, whose channels are shuffled between."""

    def __init__(self, here: int, there: int, stride: int, groups: int = 3) -> None:
        super().__init__()
        added = there if stride == 1 else there - here
        middle = there // 4
        first = 1 if here == _SHUFFLENET_STEM else groups
        self.groups, self.pools = groups, stride > 1
        self.narrow, self.spatial = (
            _conv(here, middle, 1, 1, first),
            _conv(middle, middle, 3, stride, middle, act=False),
        )
        self.widen = _conv(middle, added, 1, 1, groups, act=False)

    def forward(self, x: Tensor) -> Tensor:
        out = self.narrow(x)
        count, channels, height, width = out.shape
        out = out.view(count, self.groups, channels // self.groups, height, width)
        out = out.transpose(1, 2).reshape(count, channels, height, width)
        out = self.widen(self.spatial(out))
        if self.pools:
            return F.relu(torch.cat([F.avg_pool2d(x, 3, 2, 1), out], 1))
        return F.relu(x + out)


_SHUFFLENET_STEM = 24


def _shufflenet() -> nn.Module:
    blocks = _stages(_Shuffled, _SHUFFLENET_STEM, (240, 480, 960), (4, 8, 4), first=2)
    return nn.Sequential(_conv(3, _SHUFFLENET_STEM), *blocks, *_head(960))


class _Fire(nn.Module):
    """Few channels, and two convolutions that read them, behind one another."""

    def __init__(self, here: int, few: int, each: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(here, few, 1)
        self.small, self.large = nn.Conv2d(few, each, 1), nn.Conv2d(few, each, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.squeeze(x))
        return torch.cat([F.relu(self.small(x)), F.relu(self.large(x))], 1)


def _squeezenet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 96, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), _Fire(96, 16, 64), _Fire(128, 16, 64),
        _Fire(128, 32, 128), nn.MaxPool2d(2), _Fire(256, 32, 128), _Fire(256, 48, 192), _Fire(384, 48, 192),
        _Fire(384, 64, 256), nn.MaxPool2d(2), _Fire(512, 64, 256), nn.Conv2d(512, 10, 1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip


# Maps of the size of the images ---------------------------------------------------------------------------------------


class _UNet(nn.Module):
    """Down to a quarter and up again, with the maps of the way down beside those of the way up."""

    def __init__(self, channels: int, *, learned: bool) -> None:
        super().__init__()
        self.down1, self.down2 = (nn.Sequential(_conv(a, b), _conv(b, b)) for a, b in ((channels, 16), (16, 32)))
        self.middle = nn.Sequential(_conv(32, 64), _conv(64, 64))
        self.up2, self.up1 = (
            nn.ConvTranspose2d(a, b, 2, 2) if learned else nn.Sequential(nn.Upsample(scale_factor=2), _conv(a, b))
            for a, b in ((64, 32), (32, 16))
        )
        self.join2, self.join1 = (nn.Sequential(_conv(a, b), _conv(b, b)) for a, b in ((64, 32), (32, 16)))
        self.last = nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.down1(x)
        second = self.down2(F.max_pool2d(first, 2))
        out = self.up2(self.middle(F.max_pool2d(second, 2)))
        out = self.up1(self.join2(torch.cat([second, out], 1)))
        result: Tensor = self.last(self.join1(torch.cat([first, out], 1)))
        return result


def _autoencoder() -> nn.Module:
    """A stack of strided convolutions, and of transposed ones back to the image."""
    down = [nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU()]
    up = [nn.ConvTranspose2d(32, 16, 2, 2), nn.ReLU(), nn.ConvTranspose2d(16, 1, 2, 2)]
    return nn.Sequential(*down, *up)


# All of them ----------------------------------------------------------------------------------------------------------

_VGG_SOURCE = "Simonyan and Zisserman 2015, for images of 32x32 pixels with one fully connected layer"
_RESNET_SOURCE = "He et al. 2016, section 4.2"

PAPERS: Mapping[str, Paper] = {
    "lenet5": Paper(partial(_lenet5, nn.AvgPool2d), MNIST, "LeCun et al. 1998"),
    "lenet5_max": Paper(partial(_lenet5, nn.MaxPool2d), MNIST, "LeCun et al. 1998, with max pooling"),
    "fc_1200": Paper(_fully_connected, MNIST, "Diehl et al. 2015"),
    "conv_12_64": Paper(partial(_two_convolutions, 1, 28), MNIST, "Diehl et al. 2015"),
    "cifarnet": Paper(_cifarnet, CIFAR, "Wu et al. 2019"),
    "vgg11_bn": Paper(partial(_vgg, 11), CIFAR, _VGG_SOURCE),
    "vgg13_bn": Paper(partial(_vgg, 13), CIFAR, _VGG_SOURCE),
    "vgg16": Paper(partial(_vgg, 16, norm=False), CIFAR, _VGG_SOURCE),
    "vgg16_bn": Paper(partial(_vgg, 16), CIFAR, _VGG_SOURCE),
    "vgg19_bn": Paper(partial(_vgg, 19), CIFAR, _VGG_SOURCE),
    "vgg16_average": Paper(partial(_vgg, 16, norm=False, pool=nn.AvgPool2d), CIFAR, "Sengupta et al. 2019"),
    "vgg16_qcfs": Paper(partial(_vgg, 16, pool=nn.AvgPool2d, activation=QuantisedClip), CIFAR, "Bu et al. 2022"),
    "resnet8": Paper(_resnet8, CIFAR, "Banbury et al. 2021"),
    "resnet18": Paper(_resnet18, CIFAR, "He et al. 2016, with a stem of 3x3"),
    **{f"resnet{depth}": Paper(partial(_resnet, depth), CIFAR, _RESNET_SOURCE) for depth in (20, 32, 44, 56, 110)},
    "resnet20_b": Paper(partial(_resnet, 20, "B"), CIFAR, f"{_RESNET_SOURCE}, with 1x1 convolutions as shortcuts"),
    "resnet19": Paper(_resnet19, CIFAR, "Zheng et al. 2021"),
    "preactivated_resnet18": Paper(_preactivated18, CIFAR, "He et al. 2016, identity mappings"),
    "wide_resnet16_4": Paper(partial(_wide_resnet, 16, 4), CIFAR, "Zagoruyko and Komodakis 2016"),
    "wide_resnet28_2": Paper(partial(_wide_resnet, 28, 2), CIFAR, "Zagoruyko and Komodakis 2016"),
    "resnext29_2x64d": Paper(_resnext29, CIFAR, "Xie et al. 2017"),
    "densenet_bc_40_12": Paper(_densenet40, CIFAR, "Huang et al. 2017"),
    "mobilenet": Paper(_mobilenet, CIFAR, "Howard et al. 2017, with a stem of stride 1"),
    "mobilenet_v2": Paper(_mobilenet_v2, CIFAR, "Sandler et al. 2018, with strides for 32x32"),
    "shufflenet": Paper(_shufflenet, CIFAR, "Zhang et al. 2018, three groups, with a stem of stride 1"),
    "squeezenet": Paper(_squeezenet, CIFAR, "Iandola et al. 2016, with a stem of 3x3"),
    "all_cnn_c": Paper(_all_convolutional, CIFAR, "Springenberg et al. 2015"),
    "network_in_network": Paper(_network_in_network, CIFAR, "Lin et al. 2014"),
    "yolo_tiny": Paper(_yolo_tiny, (3, 64, 64), "Kim et al. 2020"),
    "nmnist_12_64": Paper(partial(_two_convolutions, 2, 34, 1), (2, 34, 34), "Shrestha and Orchard 2018"),
    "nmnist_plif": Paper(_plif_digits, (2, 34, 34), "Fang et al. 2021, learnable membrane time constant"),
    "gesture_slayer": Paper(_slayer_gesture, GESTURE, "Shrestha and Orchard 2018"),
    "gesture_plif": Paper(_plif_gesture, GESTURE, "Fang et al. 2021, learnable membrane time constant"),
    "gesture_sew": Paper(_sew_gesture, GESTURE, "Fang et al. 2021, deep residual learning"),
    "sew_resnet18": Paper(_sew_resnet18, (3, 64, 64), "Fang et al. 2021, deep residual learning"),
    "cifar10_dvs_vgg": Paper(_vgg_events, (2, 48, 48), "Deng et al. 2022"),
    "unet": Paper(partial(_UNet, 2, learned=True), (2, 64, 64), "Ronneberger et al. 2015, small"),
    "unet_nearest": Paper(partial(_UNet, 2, learned=False), (2, 64, 64), "Ronneberger et al. 2015, small, upsampled"),
    "autoencoder": Paper(_autoencoder, MNIST, "Hinton and Salakhutdinov 2006, as convolutions"),
}
"""By name."""
