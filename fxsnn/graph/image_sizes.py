"""Sizes of images that a chain of layers accepts, from the layers' windows alone."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from torch import nn

from fxsnn.layers import sides_of

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d)
_COMMON = (32, 28, 64, 224, 96, 128, 48, 16, 256, 8)
_SQUARES = tuple(dict.fromkeys([*_COMMON, *range(1, 257)]))
_RECTANGLES = 8
"""So many sizes that are not square are worth a try: the windows fit all of them."""
_COMMON_LENGTHS = (128, 256, 512, 1000, 1024, 2048, 100, 187, 250, 500, 4096, 8000, 16000)
_LENGTHS = tuple(dict.fromkeys([*_COMMON_LENGTHS, *range(1, 1025)]))
_LONGEST = 1 << 18

Pair = tuple[int, int]
Window = tuple[int, int, int]
"""How far it reaches, how much is padded on both sides together, and its stride."""


def likely_sizes(layers: Sequence[nn.Module], features: int | None, chain: bool) -> Iterator[Pair]:
    """Heights and widths of images up to 256, likely ones first, at which all windows fit.

    Args:
        layers: convolutions and poolings, one behind the other, that the images go through.
        features: how many numbers the first fully connected layer reads; `None`: there is none.
        chain: it reads all that these layers give; otherwise that is only likely.
    """
    windows = ([_window(layer, axis) for layer in layers] for axis in (0, 1))
    heights, widths = ({side: _behind(side, along) for side in _SQUARES} for along in windows)
    squares = [side for side in _SQUARES if heights[side] > 0 and widths[side] > 0]
    if features is None or not chain:
        yield from ((side, side) for side in squares)
    channels = next((layer.out_channels for layer in reversed(layers) if isinstance(layer, _CONVOLUTIONS)), 0)
    if features is None or not channels or features % channels:
        return
    area = features // channels
    if chain:
        yield from ((side, side) for side in squares if heights[side] * widths[side] == area)
    fitting = (
        (height, width)
        for height in _SQUARES
        for width in _SQUARES
        if height != width and heights[height] > 0 and heights[height] * widths[width] == area
    )
    yield from sorted(fitting, key=lambda size: max(size) / min(size))[:_RECTANGLES]


def likely_lengths(layers: Sequence[nn.Module], features: int | None, chain: bool) -> Iterator[int]:
    """Lengths of signals, likely ones first, at which all windows fit; see `likely_sizes`."""
    windows = [_window(layer, 1) for layer in layers]
    fitting = [length for length in _LENGTHS if _behind(length, windows) > 0]
    if features is None or not chain:
        yield from fitting
        return
    channels = next((layer.out_channels for layer in reversed(layers) if isinstance(layer, _CONVOLUTIONS)), 0)
    if channels and not features % channels:
        # Longer signals have no fewer places behind the layers.
        places = partial(_behind, windows=windows)
        lengths, wanted = range(1, _LONGEST + 1), features // channels
        first, behind = bisect_left(lengths, wanted, key=places), bisect_right(lengths, wanted, key=places)
        exact = lengths[first:behind]
        yield from (length for length in fitting if length in exact)
        yield from exact[:1]


def sizes_to_try(model: nn.Module) -> Iterator[tuple[int, ...]]:
    """Sizes of images that are usual for a network whose forward asks for sizes, by its first layer with weights."""
    kinds = (nn.Conv1d, nn.Conv2d, nn.Linear)
    first: Any = next((module for module in model.modules() if isinstance(module, kinds)), None)
    if isinstance(first, nn.Linear):
        yield (first.in_features,)
    channels = 1 if isinstance(first, nn.Linear) else getattr(first, "in_channels", 1)
    for side in dict.fromkeys([*_COMMON, *range(1, 65)]):
        yield (channels, side) if isinstance(first, nn.Conv1d) else (channels, side, side)


def _behind(side: int, windows: Sequence[Window]) -> int:
    """How long a side of an image is behind the layers; 0 where a window does not fit."""
    for reach, padding, stride in windows:
        side = (side + padding - reach) // stride + 1
        if side < 1:
            return 0
    return side


def _window(layer: Any, axis: int) -> Window:
    """Of a layer along one axis."""
    kernel, dilation = _along(layer.kernel_size, axis), _along(getattr(layer, "dilation", 1), axis)
    reach = dilation * (kernel - 1) + 1
    if layer.padding == "same":
        padding = reach - 1
    elif isinstance(layer, nn.Conv2d):
        padding = sum(sides_of(layer)[2 * axis :][:2])
    else:
        padding = 0 if layer.padding == "valid" else 2 * _along(layer.padding, axis)
    return reach, padding, _along(layer.stride, axis)


def _along(option: int | Sequence[int], axis: int) -> int:
    """What is one number for both axes, or one for each; layers on signals have that of the last one."""
    return option if isinstance(option, int) else option[axis - 2]
