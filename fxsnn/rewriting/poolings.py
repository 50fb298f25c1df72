"""An average pooling as the convolution that it is."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.fx.node import Node

from fxsnn.graph import Graph
from fxsnn.layers import convolution, pair
from fxsnn.rewriting.movement import channels_of


def averaging(pool: nn.AvgPool2d, channels: int) -> nn.Conv2d:
    """A convolution of equal weights, float64, each channel by itself.

    Args:
        pool: its windows count alike.
        channels: of what it reads.
    """
    (height, width), (tall, wide) = pair(pool.kernel_size), pair(pool.padding)
    shape, sides = (channels, 1, height, width), (tall, tall, wide, wide)
    made = convolution(shape, pair(pool.stride), sides, (1, 1), channels, bias=False)
    weight = torch.full(shape, 1 / (pool.divisor_override or height * width), dtype=torch.float64)
    made.weight = nn.Parameter(weight, requires_grad=False)
    return made


def weigh_pooling(graph: Graph, node: Node) -> None:
    """Let such a convolution, and a ReLU that changes nothing, stand for an average pooling of spikes.

    Args:
        graph: edited in place.
        node: the pooling; how many channels it reads is known.
    """
    pool: Any = graph[node]
    channels = channels_of(graph, node)
    assert channels is not None
    graph.replace(node, averaging(pool, channels).to(graph.device, graph.dtype).eval())
    graph.insert_after(node, f"{graph.name(node)}_relu", nn.ReLU().eval())
