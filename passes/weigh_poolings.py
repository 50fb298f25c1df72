"""WeighPoolings: average poolings get thresholds and biases that can be calibrated and corrected."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.fx.node import Node

from fxsnn.chip import Bits, HardwareTarget, require_target
from fxsnn.graph import Graph
from fxsnn.layers import pair
from fxsnn.rewriting import Pass, channels_of, facts, reads_activations, weigh_pooling


class WeighPoolings(Pass):
    """Average pooling between layers → a convolution of equal weights, each channel by itself, with a ReLU.

    On the chip an average pooling is a layer of neurons with the size of its window as threshold: it can say the
    largest mean that there could be, and the grid to which it rounds is as wide. Means of sparse maps are far smaller.
    A layer with weights has a threshold that suits its values, and a bias that makes up for spikes that come in bursts.
    What the network computes is the same.

    A pooling stays where the chip has no convolution of its window at these bits, and where it reads images.

    Args:
        target: the chip.
        bits: weight bits, see `convert`.

    Examples:
        >>> import fxsnn
        >>> layers = nn.Conv2d(1, 2, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(2, 2, 3), nn.ReLU(), nn.Flatten()
        >>> graph = fxsnn.capture(nn.Sequential(*layers, nn.Linear(18, 2)).eval())
        >>> print(WeighPoolings(fxsnn.get_target("generic"), bits=4)(graph).after["2"])
        Conv2d(2, 2, kernel_size=(2, 2), stride=(2, 2), groups=2, bias=False)
    """

    target: HardwareTarget
    bits: Bits

    needs = facts("canonical")
    preserves = True

    def __post_init__(self) -> None:
        require_target(self.target)
        self.target.require_choice(self.bits)

    def rewrite(self, graph: Graph) -> None:
        """Edit `graph` in place."""
        for node in graph.body(nn.AvgPool2d):
            if self._is_a_layer_of_the_chip(graph, node) and reads_activations(graph, node):
                weigh_pooling(graph, node)

    def _is_a_layer_of_the_chip(self, graph: Graph, node: Node) -> bool:
        pool: Any = graph[node]
        kernel = pair(pool.kernel_size)
        limit = self.target.input_channel_limit(kernel, self.target.bits_of(graph.name(node), self.bits, kernel, 1))
        return limit != 0 and channels_of(graph, node) is not None
