"""Which max poolings neurons can take the place of."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.fx.node import Node

from fxsnn.graph import Activation, Graph
from fxsnn.layers import Wiring


def pools_activations(graph: Graph, node: Node) -> bool:
    """Whether a max pooling reads nothing negative, so that its padding may count as zero, or can read the ReLU that
    reads it.
    """
    pool: Any = graph[node]
    behind, source = graph.sole_user(node), node.all_input_nodes[0]
    before = _is_positive(graph, source) or (
        graph.is_a(behind, *Activation) and graph.sole_user(source) is node and source.op == "call_module"
    )
    return before and not pool.return_indices


def _is_positive(graph: Graph, node: Node) -> bool:
    """Whether it is made of activations by pooling and wiring alone."""
    if graph.is_a(node, nn.AvgPool2d, nn.MaxPool2d, Wiring):
        return all(_is_positive(graph, one) for one in node.all_input_nodes)
    return graph.is_a(node, *Activation)
