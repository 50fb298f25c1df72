"""What the weights of a layer are multiplied by, and its second moments, in bounded memory."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxsnn.layers import LowBit, sides_of
from fxsnn.numerics import InputMoments

_LARGEST = 1 << 13
"""Inputs of an output, at most: more would take half a gigabyte for each of the moments."""
_AT_ONCE = 1 << 26
"""Bytes of what weights are multiplied by, laid out for all places of some images."""
_SEEN = 1 << 15
"""About so many places of all images are looked at, or eight times as many as an output has inputs."""


class Products(NamedTuple):
    """Sums of products over some inputs, see `InputMoments`, which has means."""

    real: Tensor
    cross: Tensor
    samples: int


class MomentMeter:
    """Adds up the products of a layer's inputs, at some places of each image.

    Args:
        layer: a convolution or fully connected layer.
        images: how many will be looked at in all.
    """

    def __init__(self, layer: LowBit, images: int) -> None:
        self._layer: Any = layer
        self._inputs = layer.weight[0].numel()
        self._places = -(-max(_SEEN, 8 * self._inputs) // max(1, images))
        self._real: Tensor | float = 0.0
        self._cross: Tensor | float = 0.0
        self._count = 0

    @staticmethod
    def takes(layer: LowBit) -> bool:
        """Whether moments of a layer can be had at all: of too many inputs they would take too much memory."""
        return layer.weight[0].numel() <= _LARGEST

    def products(self, real: Tensor, wanted: Tensor, number: int = 0) -> Products | None:
        """Look at what the layer reads, [N, C, ...], and at what the float network's layer reads on the same images.

        That is clipped where the real inputs end: who reads spikes cannot make up for what none of them says.

        Args:
            real: what the layer reads.
            wanted: what the float network's reads.
            number: of the batch; it decides which places are looked at.
        """
        if not len(real):
            return None
        largest = real.abs().amax()
        wanted = wanted.clamp(-largest, largest)
        few = max(1, _AT_ONCE // (self._columns(real[:1]).numel() * real.element_size()))
        generator = torch.Generator().manual_seed(number)
        whole: Products | None = None
        for ours, theirs in zip(real.split(few), wanted.split(few), strict=True):
            part = self._of(self._columns(ours), self._columns(theirs), generator)
            if whole is None:
                whole = part
                continue
            whole.real.add_(part.real)
            whole.cross.add_(part.cross)
            whole = whole._replace(samples=whole.samples + part.samples)
        return whole

    def _of(self, ours: Tensor, theirs: Tensor, generator: torch.Generator) -> Products:
        """Of some places of what weights are multiplied by, [N, G, d, places]."""
        places = ours.shape[-1]
        if places > self._places:
            chosen = torch.randperm(places, generator=generator)[: self._places].to(ours.device)
            ours, theirs = ours[..., chosen], theirs[..., chosen]
        ours, theirs = (one.permute(1, 2, 0, 3).flatten(2) for one in (ours, theirs))
        real, cross = ((one @ ours.transpose(1, 2)).double() for one in (ours, theirs))
        return Products(real, cross, ours.shape[-1])

    def add(self, products: Products | None) -> None:
        """Add what was seen on a batch; the order of batches decides about the last digits."""
        if products is not None:
            self._real += products.real
            self._cross += products.cross
            self._count += products.samples

    def moments(self) -> InputMoments:
        """Means over all that was seen."""
        assert isinstance(self._real, Tensor)
        assert isinstance(self._cross, Tensor)
        return InputMoments(self._real / self._count, self._cross / self._count, self._count)

    def _columns(self, x: Tensor) -> Tensor:
        """What weights are multiplied by, [N, G, d, places], in the units in which they are rounded."""
        layer = self._layer
        if layer.input_scale is not None:
            x = x / layer.input_scale.to(x.dtype).view(-1, *[1] * (x.dim() - 2))
        if isinstance(layer, nn.Linear):
            return x.flatten(1)[:, None, :, None]
        top, bottom, left, right = sides_of(layer)
        padded = F.pad(x, (left, right, top, bottom))
        columns = F.unfold(padded, layer.kernel_size, layer.dilation, 0, layer.stride)
        return columns.unflatten(1, (layer.groups, -1))
