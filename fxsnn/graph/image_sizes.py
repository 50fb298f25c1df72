"""Sizes of images that a chain of layers accepts, from the layers' windows alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

from fxsnn.layers import pair

_COMMON = (32, 28, 64, 224, 96, 128, 48, 16, 256, 8)
_SQUARES = tuple(dict.fromkeys([*_COMMON, *range(1, 257)]))
_RECTANGLES = 8
"""So many sizes that are not square are worth a try: the windows fit all of them."""

Pair = tuple[int, int]


def likely_sizes(layers: Sequence[nn.Module], features: int | None, chain: bool) -> Iterator[Pair]:
    """Heights and widths of images up to 256, likely ones first, at which all windows fit.

    Args:
        layers: convolutions and poolings, one behind the other, that the images go through.
        features: how many numbers the first fully connected layer reads; `None`: there is none.
        chain: it reads all that these layers give; otherwise that is only likely.
    """
    heights, widths = ({side: _behind(side, layers, axis) for side in _SQUARES} for axis in (0, 1))
    squares = [side for side in _SQUARES if heights[side] > 0 and widths[side] > 0]
    if features is None or not chain:
        yield from ((side, side) for side in squares)
    channels = next((layer.out_channels for layer in reversed(layers) if isinstance(layer, nn.Conv2d)), 0)
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


def sizes_to_try(model: nn.Module) -> Iterator[tuple[int, ...]]:
    """Sizes of images that are usual for a network whose forward asks for sizes, by its first layer with weights."""
    kinds = (nn.Conv1d, nn.Conv2d, nn.Linear)
    first: Any = next((module for module in model.modules() if isinstance(module, kinds)), None)
    if isinstance(first, nn.Linear):
        yield (first.in_features,)
    channels = 1 if isinstance(first, nn.Linear) else getattr(first, "in_channels", 1)
    for side in dict.fromkeys([*_COMMON, *range(1, 65)]):
        yield (channels, side) if isinstance(first, nn.Conv1d) else (channels, side, side)


def _behind(side: int, layers: Sequence[Any], axis: int) -> int:
    """How long a side of an image is behind the layers; 0 where a window does not fit."""
    for layer in layers:
        kernel, stride = pair(layer.kernel_size)[axis], pair(layer.stride)[axis]
        dilation = pair(getattr(layer, "dilation", 1))[axis]
        if layer.padding == "same":
            padding = dilation * (kernel - 1)
        else:
            padding = 0 if layer.padding == "valid" else 2 * pair(layer.padding)[axis]
        side = (side + padding - dilation * (kernel - 1) - 1) // stride + 1
        if side < 1:
            return 0
    return side
