"""Layers with a batch norm folded in."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fxsnn.layers.padded import PaddedConv2d


class Folded(nn.Module):
    """Remembers the batch norm that was folded in: each output channel is about N(mean, deviation^2).

    Attributes:
        channel_mean: [C], the shift of the batch norm.
        channel_deviation: [C], the magnitude of its scale.
    """

    channel_mean: Tensor
    channel_deviation: Tensor

    def remember(self, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
        """Take over the affine part of `norm`."""
        running_mean = norm.running_mean
        assert running_mean is not None
        mean = torch.zeros_like(running_mean) if norm.bias is None else norm.bias.detach()
        deviation = torch.ones_like(running_mean) if norm.weight is None else norm.weight.detach().abs()
        self.register_buffer("channel_mean", mean)
        self.register_buffer("channel_deviation", deviation)


class FoldedConv2d(Folded, PaddedConv2d):
    """A convolution with a batch norm folded in."""


class FoldedLinear(Folded, nn.Linear):
    """A fully connected layer with a batch norm folded in."""
