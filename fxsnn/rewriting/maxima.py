"""Which max poolings neurons can take the place of."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.fx.node import Node

from fxsnn.graph import Activation, Graph, Pooling, Weighted, made_of_activations
from fxsnn.layers import Wiring, pair

_AVERAGE = "or train it with average pooling (nn.AvgPool{}d): it commutes with adding up spikes, a maximum does not"
_BY_RECTIFIERS = "Pass max_pool='rectifiers' (fxsnn.passes.ReplaceMaxPool), which keeps the function where the chip has"
_POOLING = f"{_BY_RECTIFIERS} sums, or 'any', which comes near it on every chip, {_AVERAGE}"
_SIGNED = f"{_BY_RECTIFIERS} sums and pairs, for it pools what may be negative"
_SIGNED_OF_A_SIZE = f"{_SIGNED}, and give example=..., images of the size that the network is for"
_FIXED = f"Use a max pooling with a fixed window, without return_indices, {_AVERAGE}"
_MAXIMA = "Let it pool activations, without return_indices; or train it with average pooling (nn.AvgPool{}d)"
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


def pools_signed(graph: Graph, node: Node) -> bool:
    """Whether a max pooling reads values with a sign of layers with weights, so that pairs can do it."""
    pool: Any = graph[node]
    computed = any(graph.is_a(one, *Weighted) for one in graph.ancestors(node))
    return computed and not pool.return_indices and not pools_activations(graph, node)


def is_padded(pool: Any) -> bool:
    """Whether windows of a max pooling may hold places that are not in the map."""
    return bool(pool.ceil_mode) or any(pair(pool.padding))


def remedy_for_maxima(graph: Graph, node: Node) -> str:
    """What to do about a max pooling that stands between layers; `{}` stands for how many sides its windows have."""
    if not graph.is_a(node, nn.MaxPool1d, nn.MaxPool2d):
        return _FIXED
    if not graph.is_a(node, nn.MaxPool2d) or pools_activations(graph, node):
        return _POOLING
    if not pools_signed(graph, node):
        return _MAXIMA
    unknown = is_padded(graph[node]) and graph.image_size is None
    return f"{_SIGNED_OF_A_SIZE if unknown else _SIGNED}; {_AVERAGE}"
