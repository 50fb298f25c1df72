"""The sizes of all values of a program for images of a known size, without computing anything."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx.node import Node

from fxsnn.graph.copying import copied
from fxsnn.graph.graph import Graph
from fxsnn.graph.interpreter import Interpreter

_IMAGES = 3


def value_sizes(graph: Graph, size: tuple[int, ...] | None = None) -> dict[Node, tuple[int, ...]]:
    """The size of what each node gives, without the batch.

    Nodes that give no row an image are left out, and so is all behind a call that cannot be run on PyTorch's meta
    device. Empty where the size of images is not known.

    Args:
        graph: the network.
        size: of an image without the batch; `None`: that with which the network was captured.
    """
    size = graph.image_size if size is None else size
    if size is None:
        return {}
    found: dict[Node, tuple[int, ...]] = {}
    meta = copied(graph.module, lambda tensor: tensor.to("meta"))
    nodes = dict(zip(meta.graph.nodes, graph.nodes(), strict=True))

    class Sizes(Interpreter):
        def run_node(self, n: Node) -> Any:
            value = super().run_node(n)
            if isinstance(value, Tensor) and value.shape[:1] == (_IMAGES,):
                found[nodes[n]] = tuple(value.shape[1:])
            return value

    images = torch.empty(_IMAGES, *size, device="meta", dtype=graph.dtype)
    with torch.no_grad():
        try:
            Sizes(meta).run(images)
        except (RuntimeError, NotImplementedError, ValueError, TypeError, AttributeError, IndexError):
            return found
    return found
