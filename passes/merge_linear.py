"""MergeLinear: linear layers with no activation between them are one layer."""

from __future__ import annotations

from functools import partial

from torch import nn
from torch.fx.node import Node

from fxsnn.graph import Graph, Weighted, value_sizes
from fxsnn.rewriting import NotRewritten, Pass, composed, facts, fix_size, is_in_front_of_activation, layer_in_front


class MergeLinear(Pass):
    """Convolutions, fully connected layers and average poolings in a row become one layer, where that is exact.

    Depthwise and pointwise convolution, a factorised fully connected layer, a pooling between a convolution and its
    ReLU, a pooling of the images: what has no ReLU of its own has no neurons either. Batch norms between them are
    folded in; one behind the last stays for `FoldBatchNorm`. The one layer has the name of the last one with weights,
    and the kernel of both, which the chip must have. Where the second one pads, both are one only if the first gives
    zero there; where that depends on the size of images, only images of that size are taken from then on
    (`FixedSize`). What is left, `CheckConvRelu` speaks about.

    Examples:
        >>> import torch, fxsnn
        >>> from torch import nn
        >>> separable = nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.Conv2d(4, 8, 1), nn.ReLU()
        >>> print(MergeLinear()(fxsnn.capture(nn.Sequential(*separable))).after.text(hashes=False))
        name   calls                                                            reads  tensors
        -----  ---------------------------------------------------------------  -----  -------
        input  placeholder
        1      Conv2d(4, 8, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))  input
        2      ReLU()                                                           1
    """

    needs = facts("canonical", "two-dimensional")
    gives = facts("linear-layers-merged")
    preserves = True

    def rewrite(self, graph: Graph) -> None:
        """Edit `graph` in place."""
        sizes: dict[Node, tuple[int, ...]] | None = None
        asked = False

        def size_in_front(node: Node) -> tuple[int, ...] | None:
            nonlocal sizes, asked
            sizes, asked = value_sizes(graph) if sizes is None else sizes, True
            return sizes.get(node.all_input_nodes[0])

        left = graph.body(*Weighted, nn.AvgPool2d)
        while left:
            last = left.pop()
            while is_in_front_of_activation(graph, last) and (found := layer_in_front(graph, last)) is not None:
                first, norms = found
                asked = False
                try:
                    layer = composed(graph, first, norms, last, partial(size_in_front, first))
                except NotRewritten:
                    break
                left.remove(first)
                last = _merged(graph, first, norms, last, layer)
                if asked:
                    fix_size(graph)


def _merged(graph: Graph, first: Node, norms: list[Node], last: Node, layer: nn.Module) -> Node:
    """The node of the one layer."""
    kept, other = (last, first) if graph.is_a(last, *Weighted) or not graph.is_a(first, *Weighted) else (first, last)
    graph.replace(kept, layer)
    for node in (*norms, other):
        graph.bypass(node)
    return kept
