"""Kernels whose sides are padded each by itself, for NIR, which has one number for both sides of an axis.

Taps of zero on the side that is padded less make the kernel larger and the padding even; every sum stays what it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

Pair = tuple[int, int]


def even_padding(weight: Tensor, node: Mapping[str, Any]) -> tuple[Tensor, Pair, Pair]:
    """Weights [outputs, inputs, height, width], padding and dilation of the same convolution with even padding.

    Args:
        weight: of the convolution.
        node: its description in the network file, see docs/FILE.md.
    """
    height, width = (_Axis.of(node, axis) for axis in (0, 1))
    size = [axis.size for axis in (height, width)]
    spread = torch.zeros(*weight.shape[:2], *size, dtype=weight.dtype)
    spread[:, :, height.taps, width.taps] = weight
    return spread, (height.padding, width.padding), (height.dilation, width.dilation)


def own_taps(weight: Tensor, node: Mapping[str, Any]) -> Tensor:
    """The weights that `even_padding` was given, from those that it gave.

    Raises:
        ValueError: they have another size.
    """
    height, width = (_Axis.of(node, axis) for axis in (0, 1))
    if tuple(weight.shape[2:]) != (height.size, width.size):
        raise ValueError(f"its kernel is {tuple(weight.shape[2:])}")
    return weight[:, :, height.taps, width.taps]


class _Axis:
    """One axis of a kernel with even padding: its size, its dilation, its padding, and where the taps lie in it."""

    def __init__(self, before: int, behind: int, kernel: int, dilation: int) -> None:
        self.padding = max(before, behind)
        first, last = self.padding - before, self.padding - behind
        step = 1 if first % dilation == 0 == last % dilation else dilation
        self.dilation = dilation // step
        self.taps = slice(first // self.dilation, first // self.dilation + (kernel - 1) * step + 1, step)
        self.size = self.taps.stop + last // self.dilation

    @classmethod
    def of(cls, node: Mapping[str, Any], axis: int) -> _Axis:
        before, behind = node["padding"][2 * axis :][:2]
        return cls(before, behind, node["kernel_size"][axis], node["dilation"][axis])
