"""AbsorbPadding: zeros around a map are the padding of the layer that reads them."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.fx.node import Node

from fxsnn.graph import Graph, value_sizes
from fxsnn.layers import Lift, Lower, Select, Sides, conv_like, said
from fxsnn.rewriting import NotRewritten, Pass, facts, fix_size, is_padding, padded, padding_of, reader_of


class AbsorbPadding(Pass):
    """`ZeroPad2d`, `ConstantPad2d` with 0 and `F.pad` go into the convolution or average pooling behind them.

    What maps zero to zero, such as a ReLU, may stand between. Where the sides of a convolution then differ, it is a
    `PaddedConv2d` with the kernel that it had. Padding that no layer of the body can take in, such as what a
    convolution and a max pooling read, is wiring (`Select`) where the size of the maps is known; else it is left, for
    `CheckConvRelu` to speak about. So is that of the tail.

    Examples:
        >>> import torch, fxsnn
        >>> from torch import nn
        >>> graph = fxsnn.capture(nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(1, 2, 3, stride=2), nn.ReLU()))
        >>> print(AbsorbPadding()(graph).after.text(hashes=False))
        name   calls                                                                        reads  tensors
        -----  ---------------------------------------------------------------------------  -----  -------
        input  placeholder
        1      PaddedConv2d(1, 2, kernel_size=(3, 3), stride=(2, 2), padding=(0, 1, 0, 1))  input
        2      ReLU()                                                                       1
    """

    needs = facts("canonical", "two-dimensional")
    gives = facts("padding-absorbed")
    preserves = True

    def rewrite(self, graph: Graph) -> None:
        """Edit `graph` in place."""
        body, left = set(graph.body()), list[tuple[Node, Sides]]()
        for node in reversed(graph.nodes()):  # of two in a row the layer has the second by then
            if node in body and is_padding(graph, node):
                try:
                    sides = padding_of(graph, node)
                except NotRewritten:
                    continue
                try:
                    reader = reader_of(graph, node, sides) if any(sides) else None
                except NotRewritten:
                    left.append((node, sides))
                    continue
                if reader is not None and reader not in body:
                    continue
                if reader is not None:
                    graph.replace(reader, _with_padding(graph[reader], sides))
                _take_out(graph, node)
        sizes = value_sizes(graph) if left else {}
        for node, sides in left:
            if len(size := sizes.get(node.all_input_nodes[0], ())) == 3:
                _put_wiring(graph, node, size, sides)


def _put_wiring(graph: Graph, node: Node, size: tuple[int, ...], sides: Sides) -> None:
    top, bottom, left, right = sides
    rows, columns = ([-1] * one + [*range(side)] + [-1] * other
                     for one, side, other in ((top, size[1], bottom), (left, size[2], right)))  # fmt: skip
    node.args, node.kwargs = (node.all_input_nodes[0],), {}
    graph.replace(node, Select(rows, columns).eval())
    fix_size(graph)


def _with_padding(layer: Any, more: Sides) -> nn.Module:
    sides = padded(layer, more)
    if isinstance(layer, nn.Conv2d):
        return conv_like(nn.Conv2d, layer, said(sides))
    pool = nn.AvgPool2d(layer.kernel_size, layer.stride, (sides[0], sides[2]), divisor_override=layer.divisor_override)
    return pool.train(layer.training)


def _take_out(graph: Graph, node: Node) -> None:
    """Without what only made signals of maps for it."""
    source, readers = node.all_input_nodes[0], list(node.users)
    graph.bypass(node)
    if graph.is_a(source, Lower):
        for reader in readers:
            if graph.is_a(reader, Lift):
                reader.replace_all_uses_with(source.all_input_nodes[0])
