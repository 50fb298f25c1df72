"""DropIdleReLUs: a ReLU of what is never negative is taken out."""

from __future__ import annotations

from torch import nn

from fxsnn.graph import Graph
from fxsnn.rewriting import Pass, facts, is_nowhere_negative


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
            if is_nowhere_negative(graph, node.all_input_nodes[0]):
                graph.bypass(node)
