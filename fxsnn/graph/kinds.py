"""Kinds of modules that passes ask for, and what a module or a call says of itself."""

from __future__ import annotations

import torch
from torch import nn
from torch.fx.node import Argument, Node

from fxsnn.layers import ClippedReLU, RateReLU

Activation = (nn.ReLU, ClippedReLU, RateReLU)
Norm = (nn.BatchNorm1d, nn.BatchNorm2d)
Weighted = (nn.Conv2d, nn.Linear)


def place_of(module: nn.Module) -> tuple[torch.device, torch.dtype | None]:
    """Where a module's tensors are, and the type that it reads images in.

    Returns:
        The device of its first tensor, or the CPU; the type of its first floating one, or `None`. Those of layers with
        weights come first, since what is done to their outputs may have a type of its own; then other parameters.
    """
    layers = [one for one in module.modules() if isinstance(one, Weighted)]
    weights = [parameter for layer in layers for parameter in layer.parameters(recurse=False)]
    tensors = [*weights, *module.parameters(), *module.buffers()]
    device = next((tensor.device for tensor in tensors), torch.device("cpu"))
    return device, next((tensor.dtype for tensor in tensors if tensor.is_floating_point()), None)


def view_sizes(node: Node) -> tuple[Argument, ...]:
    """The sizes that a view or reshape is given, one by one or together."""
    sizes: tuple[Argument, ...] = node.args[1:] or (node.kwargs.get("shape"),)
    return tuple(sizes[0]) if len(sizes) == 1 and isinstance(sizes[0], tuple | list) else sizes
