"""DropIdleReLUs: a ReLU of what is never negative is taken out."""

from __future__ import annotations

from torch import nn

from fxsnn.graph import Graph
from fxsnn.layers import BoundedReLU
from fxsnn.rewriting import Pass, facts

_AVERAGES = (nn.AvgPool2d, nn.AvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool1d)
_KEEP_THE_SIGN = (*_AVERAGES, nn.MaxPool2d, nn.MaxPool1d, nn.Flatten)


class DropIdleReLUs(Pass):
    """A ReLU that reads another activation, with poolings and flattening between or not, changes nothing.

    Examples:
        >>> import torch, fxsnn
        >>> from torch import nn
        >>> layers = nn.Conv2d(1, 2, 3), nn.ReLU(), nn.AvgPool2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2)
        >>> DropIdleReLUs()(fxsnn.capture(nn.Sequential(*layers))).diff().summary()
        'ReLU removed'
    """

    needs = facts("canonical")
    preserves = True

    def rewrite(self, graph: Graph) -> None:
        """Edit `graph` in place."""
        for node in graph.body(nn.ReLU):
            source = node.all_input_nodes[0]
            while graph.is_a(source, *_KEEP_THE_SIGN):
                source = source.all_input_nodes[0]
            if graph.is_a(source, nn.ReLU, BoundedReLU):
                graph.bypass(node)
