"""Puts layers in the place of calls that only put numbers elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from torch import nn
from torch.fx.node import Node

from fxsnn.graph import Graph
from fxsnn.layers import Concat
from fxsnn.rewriting.movement import concatenated, movement_of
from fxsnn.rewriting.sums import name_inside


def put_concatenations(graph: Graph, inner: Collection[Node]) -> None:
    """Let calls that put channels or features behind one another be `Concat`.

    Args:
        graph: changed.
        inner: the calls that may change.
    """
    for node in graph:
        if node in inner and (read := _read_channels(graph, node)) is not None:
            put_layer(graph, node, "cat", Concat().eval(), read)


def put_movements(graph: Graph, inner: Collection[Node], sizes: Callable[[], Mapping[Node, tuple[int, ...]]]) -> bool:
    """Let calls that only put numbers of maps elsewhere be layers, or nothing where all come back to their places.

    Args:
        graph: changed.
        inner: the calls that may change.
        sizes: gives those of values, without the batch, where they are known.

    Returns:
        Whether the layers do the same to images of any size.
    """
    of_any_size = True
    for node in graph:  # what stands before it are layers by then
        if node in inner and (found := movement_of(graph, node, sizes)) is not None:
            of_any_size = of_any_size and found.of_any_size
            if found.layer is None:
                node.replace_all_uses_with(found.source)
            else:
                put_layer(graph, node, type(found.layer).__name__.lower(), found.layer.eval(), [found.source])
    return of_any_size


def put_layer(graph: Graph, node: Node, name: str, module: nn.Module, read: Sequence[Node]) -> None:
    """Let a call be one of a layer.

    Args:
        graph: the network.
        node: changed.
        name: what the layer is called, if the call has none.
        module: the layer.
        read: what it reads.
    """
    if node.op != "call_module":
        node.target, node.op = graph.unused_name(name_inside(node, name)), "call_module"
    node.args, node.kwargs = tuple(read), {}
    graph.module.add_submodule(str(node.target), module)


def _read_channels(graph: Graph, node: Node) -> list[Node] | None:
    """What a call puts behind one another along the channels or features; `None` if it does something else."""
    tensors, dim = concatenated(node) or (None, None)
    last = -1 if graph.reads_features(node) else -3
    if dim not in (1, last) or not isinstance(tensors, list | tuple):
        return None
    return list(tensors) if all(isinstance(one, Node) and one.op != "get_attr" for one in tensors) else None
