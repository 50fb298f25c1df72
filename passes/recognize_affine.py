"""RecognizeAffine: all that scales and shifts channels, however it is written, is one module."""

from __future__ import annotations

import copy
import operator
from typing import Any

from torch import nn
from torch.fx.node import Node

from fxsnn.graph import Activation, Graph, Norm, Weighted
from fxsnn.layers import Affine, pair
from fxsnn.rewriting import Pass, affine_of, facts, source_of_affine, way_forward


class RecognizeAffine(Pass):
    """Arithmetic with constants, `torchvision.transforms.Normalize` and batch norms of their own become `Affine`.

    Constants are numbers, tensors of one, and tensors that differ along the channels only. Several in a row become one.
    A batch norm behind a convolution or fully connected layer stays, for `FoldBatchNorm`; and what only poolings
    separate from the tail stays as it is, to become a part of that. The `divisor_override` of an average pooling is a
    multiplication behind it. What several read behind an activation is done for each of them by itself.

    Examples:
        >>> import fxsnn
        >>> from torch import nn
        >>> class Net(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.conv, self.relu = nn.Conv2d(2, 4, 3), nn.ReLU()
        ...
        ...     def forward(self, x):
        ...         return self.relu(self.conv(2 * (x / 255) - 1))
        >>> print(RecognizeAffine()(fxsnn.capture(Net())).after.text(hashes=False))
        name  calls                                            reads  tensors
        ----  -----------------------------------------------  -----  -------
        x     placeholder
        sub   Affine(scale=0.007843, shift=-1)                 x
        conv  Conv2d(2, 4, kernel_size=(3, 3), stride=(1, 1))  sub
        relu  ReLU()                                           conv
    """

    needs = facts("canonical")
    preserves = True

    def rewrite(self, graph: Graph) -> None:
        """Edit `graph` in place."""
        for node in graph.body(nn.AvgPool2d):
            _multiply_behind(graph, node)
        body = set(graph.body())
        found = {node: one for node in graph if node in body and (one := affine_of(graph, node)) is not None}
        for node, affine in found.items():
            tail = way_forward(graph, node, affine, body, past_others=True).reaches_tail
            if not tail and not _is_norm_of_layer(graph, node):
                node.args, node.kwargs = (source_of_affine(graph, node),), {}
                graph.replace(node, affine.eval())
        for node in graph.body(Affine):
            before: Any = node.all_input_nodes[0]
            if graph.is_a(before, Affine) and graph.sole_user(before) is node:
                first, second = graph[before], graph[node]
                assert isinstance(first, Affine)
                assert isinstance(second, Affine)
                graph.replace(node, first.then(second).eval())
                graph.bypass(before)
        for node in graph.body(Affine):
            if graph.is_a(node.all_input_nodes[0], *Activation, nn.AvgPool2d, nn.MaxPool2d):
                _do_for_each_reader(graph, node, body)


def _do_for_each_reader(graph: Graph, node: Node, body: set[Node]) -> None:
    """Let each of several layers that read a scale and shift have its own, which it may be able to take in."""
    readers, (source,) = sorted(node.users), node.all_input_nodes
    if all(one in body for one in readers):
        for reader in readers[1:]:
            again = graph.call_after(node, f"{graph.name(node)}_again", copy.copy(graph[node]), [source])
            reader.replace_input_with(node, again)


def _is_norm_of_layer(graph: Graph, node: Node) -> bool:
    """Whether it is the first batch norm behind a layer with weights, other scales and shifts aside."""
    before = source_of_affine(graph, node)
    while before is not None and not graph.is_a(before, *Norm, *Weighted, nn.Conv1d):
        if affine_of(graph, before) is None or graph.sole_user(before) is None:
            return False
        before = source_of_affine(graph, before)
    return graph.is_a(node, *Norm) and graph.is_a(before, *Weighted, nn.Conv1d)


def _multiply_behind(graph: Graph, node: Node) -> None:
    """Let a pooling divide by the size of its window, and a multiplication do the rest."""
    pool: Any = graph[node]
    if pool.divisor_override is None or pool.ceil_mode:
        return
    height, width = pair(pool.kernel_size)
    graph.replace(node, nn.AvgPool2d(pool.kernel_size, pool.stride, pool.padding).eval())
    with graph.module.graph.inserting_after(node):
        factor = graph.module.graph.call_function(operator.mul, (node, height * width / pool.divisor_override))
    factor.meta = dict(node.meta)
    node.replace_all_uses_with(factor, delete_user_cb=lambda user: user is not factor)
