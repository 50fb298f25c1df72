"""SeparateCalls: a layer that is called several times becomes as many layers, each with the same weights."""

from __future__ import annotations

from torch import nn

from fxsnn.graph import Graph, copied
from fxsnn.rewriting import Pass, facts


class SeparateCalls(Pass):
    """One layer for each call: on a chip each has its own cores and its own threshold.

    The first call keeps the name. All have the same tensors until something is done to one of them: a batch norm folded
    into it, a training. What only the tail calls is left alone.

    Examples:
        >>> import torch, fxsnn
        >>> from torch import nn
        >>> from fxsnn.passes import Canonicalize
        >>> again = nn.Conv2d(2, 2, 3, padding=1)
        >>> layers = nn.Conv2d(1, 2, 3), nn.ReLU(), again, nn.ReLU(), again, nn.ReLU(), nn.Flatten(), nn.Linear(8, 2)
        >>> graph = Canonicalize()(fxsnn.capture(nn.Sequential(*layers))).after
        >>> after = SeparateCalls()(graph).after
        >>> [after.name(node) for node in after.nodes(nn.Conv2d)]
        ['0', '2', '2__2_1']
    """

    needs = facts("canonical")
    preserves = True

    def rewrite(self, graph: Graph) -> None:
        """Edit `graph` in place."""
        for node in reversed(graph.body(nn.Module)):
            if len(graph.calls(str(node.target))) > 1:
                graph.replace(node, copied(graph[node], lambda tensor: tensor))
