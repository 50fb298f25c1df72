"""RewriteTransposed: a transposed convolution becomes a convolution of maps with zeros between their places."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.node import Node

from fxsnn.graph import Graph
from fxsnn.layers import Spread, convolution
from fxsnn.rewriting import Pass, facts


class RewriteTransposed(Pass):
    """ConvTranspose2d → `Spread`, which puts its stride between the places of maps, and a Conv2d of the turned kernel.

    The convolution has the name, the kernel's size, the groups, the dilation and the bias of the transposed one, and as
    many outputs: as many neurons, thresholds and weight steps, whatever stands behind. It pads `d (k - 1) - p` zeros,
    and `output_padding` more below and right; a padding of which that is negative takes rows away from the maps. A
    stride of 1 needs no `Spread`. What the tail transposes stays as it is.

    Examples:
        >>> import torch, fxsnn
        >>> from torch import nn
        >>> graph = fxsnn.capture(nn.Sequential(nn.ConvTranspose2d(2, 4, 4, stride=2, padding=1), nn.ReLU()))
        >>> print(RewriteTransposed()(graph).after.text(hashes=False))
        name      calls                                                            reads     tensors
        --------  ---------------------------------------------------------------  --------  -------
        input     placeholder
        0_spread  Spread(2 x 2)                                                    input
        0         Conv2d(2, 4, kernel_size=(4, 4), stride=(1, 1), padding=(2, 2))  0_spread
        1         ReLU()                                                           0
    """

    needs = facts("canonical", "two-dimensional")
    preserves = True

    def rewrite(self, graph: Graph) -> None:
        """Edit `graph` in place."""
        for node in graph.body(nn.ConvTranspose2d):
            if len(node.args) == 1 and not node.kwargs:  # else it is told how large its output is
                _rewrite(graph, node)


def _rewrite(graph: Graph, node: Node) -> None:
    layer: Any = graph[node]
    (height, width), (down, across) = layer.kernel_size, layer.dilation
    (tall, wide), (below, right) = layer.padding, layer.output_padding
    top, left = down * (height - 1) - tall, across * (width - 1) - wide
    edges = (top, top + below, left, left + right)
    taken = (min(0, top), min(0, top + below), min(0, left), min(0, left + right))
    if layer.stride != (1, 1) or any(taken):
        spread = Spread(layer.stride[0], layer.stride[1], taken).eval()
        node.args = (graph.call_before(node, f"{graph.name(node)}_spread", spread, node.all_input_nodes),)
    weight = _turned(layer.weight, layer.groups)
    top, bottom, left, right = (max(0, edge) for edge in edges)
    made = convolution(
        tuple(weight.shape), (1, 1), (top, bottom, left, right), layer.dilation, layer.groups,
        bias=layer.bias is not None,
    )  # fmt: skip
    made.weight, made.bias = nn.Parameter(weight, layer.weight.requires_grad), layer.bias
    graph.replace(node, made.train(layer.training))


def _turned(weight: Tensor, groups: int) -> Tensor:
    """The weight of the convolution, [out, in / groups, ...], for that of the transposed one, [in, out / groups, ...].

    Each output reads through the kernel from the other end.
    """
    inputs, outputs, *kernel = weight.shape
    by_group = weight.detach().view(groups, inputs // groups, outputs, *kernel).transpose(1, 2)
    return torch.flip(by_group.reshape(groups * outputs, inputs // groups, *kernel), (2, 3)).contiguous()
