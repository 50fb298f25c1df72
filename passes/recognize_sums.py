"""RecognizeSums: residual connections, however they are written, are one module for each sum."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.node import Node

from fxsnn.graph import Activation, Graph, in_front_of_layers, value_sizes
from fxsnn.layers import Add, Affine
from fxsnn.rewriting import Pass, adds_up_activations, facts, put_sum, terms_of


class RecognizeSums(Pass):
    """`x + y`, `x - y`, `x += y`, `torch.add(x, y, alpha=...)` become `Add`, which may have more than two inputs.

    A sum that only another one reads becomes a part of that, and so does an `Affine` in front of it that nothing else
    reads, or behind it. A sum of activations that adds up nothing negative gets the `ReLU` behind it that neurons stand
    for, and that changes nothing. What does not add two tensors of one shape is left, for `CheckConvRelu` to speak
    about.

    Examples:
        >>> import fxsnn
        >>> from torch import nn
        >>> class Net(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.first, self.second, self.relu = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 1), nn.ReLU()
        ...         self.last = nn.Linear(4, 2)
        ...
        ...     def forward(self, x):
        ...         x = self.relu(self.first(x))
        ...         return self.last(self.relu(self.second(x) + x).mean((2, 3)))
        >>> graph = fxsnn.passes.SeparateCalls()(fxsnn.capture(Net())).after
        >>> print(RecognizeSums()(graph).after.text(hashes=False))
        name         calls                                             reads         tensors
        -----------  ------------------------------------------------  ------------  -------
        x            placeholder
        first        Conv2d(2, 4, kernel_size=(3, 3), stride=(1, 1))   x
        relu         ReLU()                                            first
        second       Conv2d(4, 4, kernel_size=(1, 1), stride=(1, 1))   relu
        add          Add(2 inputs)                                     second, relu
        relu_relu_1  ReLU()                                            add
        mean         ((2, 3))                                          relu_relu_1
        last         Linear(in_features=4, out_features=2, bias=True)  mean
    """

    needs = facts("canonical")
    preserves = True

    def rewrite(self, graph: Graph) -> None:
        """Edit `graph` in place."""
        inner = in_front_of_layers(graph.module)
        sums = [node for node in graph if node in inner and terms_of(node, {}) is not None]
        sizes = value_sizes(graph) if sums else {}
        for node in sums:
            if (terms := terms_of(node, sizes)) is not None:
                zero = torch.zeros(1, dtype=torch.float64, device=graph.device)
                put_sum(graph, node, [(read, zero + factor) for read, factor in terms], zero)
        for node in graph.nodes(Add):
            _take_in(graph, node)
        for node in graph.nodes(Affine):
            source: Any = node.all_input_nodes[0]
            if graph.is_a(source, Add) and graph.sole_user(source) is node:
                add, behind = graph[source], graph[node]
                assert isinstance(add, Add)
                assert isinstance(behind, Affine)
                graph.replace(source, Add(add.factor * behind.scale, add.shift * behind.scale + behind.shift).eval())
                graph.bypass(node)
        for node in graph.nodes(Add):
            if adds_up_activations(graph, node) and not graph.is_a(graph.sole_user(node), Add, *Activation):
                graph.insert_after(node, f"{graph.name(node)}_relu", nn.ReLU().eval())


def _take_in(graph: Graph, node: Node) -> None:
    """Let a sum do what sums and scales in front of it do that nothing else reads."""
    add: Any = graph[node]
    terms: list[tuple[Node, Tensor]] = []
    shift = add.shift
    gone = []
    for read, factor in zip(node.all_input_nodes, add.factor, strict=True):
        inner: Any = graph[read] if graph.is_a(read, Add, Affine) and graph.sole_user(read) is node else None
        if inner is None:
            terms.append((read, factor))
            continue
        factors = inner.factor if isinstance(inner, Add) else inner.scale[None]
        terms += [(one, factor * own) for one, own in zip(read.all_input_nodes, factors, strict=True)]
        shift = shift + factor * inner.shift
        gone.append(read)
    if gone:
        put_sum(graph, node, terms, shift)
        for read in gone:
            graph.module.graph.erase_node(read)
