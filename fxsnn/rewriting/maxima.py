"""Which max poolings neurons can take the place of."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.fx.node import Node

from fxsnn.graph import Activation, Graph, Pooling, made_of_activations
from fxsnn.layers import Wiring

_PASS_ON = (*Pooling, nn.MaxPool2d, Wiring)


def pools_activations(graph: Graph, node: Node) -> bool:
    """Whether a max pooling reads nothing negative, so that its padding may count as zero, or can read the ReLU that
    reads it.
    """
    pool: Any = graph[node]
    behind, source = graph.sole_user(node), node.all_input_nodes[0]
    before = made_of_activations(graph.module, source, lambda one: graph.is_a(one, *_PASS_ON)) or (
        graph.is_a(behind, *Activation) and graph.sole_user(source) is node and source.op == "call_module"
    )
    return before and not pool.return_indices
