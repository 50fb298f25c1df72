"""Convolutions that pad their four sides each by itself."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

Sides = tuple[int, int, int, int]
"""Zeros above, below, left and right."""


class PaddedConv2d(nn.Conv2d):
    """A convolution whose `padding` may also be four numbers: above, below, left and right.

    It stands where sides differ and `padding="same"` does not say it; what PyTorch has a word for stays an `nn.Conv2d`.
    Code that knows two numbers only fails on four, instead of passing over some of them.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if isinstance(self.padding, str) or len(self.padding) == 2:
            return super()._conv_forward(input, weight, bias)
        top, bottom, left, right = self.padding
        padded = F.pad(input, (left, right, top, bottom))
        return F.conv2d(padded, weight, bias, self.stride, 0, self.dilation, self.groups)


def sides_of(conv: nn.Conv2d) -> Sides:
    """By how much a convolution pads each side, whichever way its `padding` says it."""
    if conv.padding == "valid":
        return (0, 0, 0, 0)
    if conv.padding == "same":  # what is odd about it goes below and right
        tall, wide = (space * (side - 1) for space, side in zip(conv.dilation, conv.kernel_size, strict=True))
        return (tall // 2, tall - tall // 2, wide // 2, wide - wide // 2)
    given = tuple(int(side) for side in conv.padding)
    return (given[0], given[0], given[1], given[1]) if len(given) == 2 else (given[0], given[1], given[2], given[3])


def said(sides: Sides) -> tuple[int, ...]:
    """The `padding` of a convolution for these sides: two numbers where they are enough."""
    top, bottom, left, right = sides
    return (top, left) if (top, left) == (bottom, right) else sides


def convolution(
    shape: tuple[int, ...], stride: tuple[int, int], sides: Sides, dilation: tuple[int, int], groups: int, *, bias: bool
) -> nn.Conv2d:
    """A convolution without numbers, on the meta device.

    Args:
        shape: of its weight.
        stride: down and across.
        sides: by how much it pads.
        dilation: down and across.
        groups: of channels.
        bias: whether it has one.
    """
    padding: Any = said(sides)
    kind = nn.Conv2d if len(padding) == 2 else PaddedConv2d
    kernel = (shape[2], shape[3])
    return kind(shape[1] * groups, shape[0], kernel, stride, padding, dilation, groups, bias, device="meta")
