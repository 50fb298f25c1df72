"""What a network does to its images before they are rounded to the integer input."""

from __future__ import annotations

from torch.fx.node import Node

from fxsnn.graph.graph import Graph
from fxsnn.layers import Affine, AverageFrames


def normalised_images(graph: Graph) -> tuple[Node, Affine | None]:
    """The node whose value is rounded to the integer input, and the `Affine` that it calls.

    That is one that alone reads the images for the body, or else the images themselves (and `None`); of frames their
    mean.
    """
    images = next(iter(graph.body(AverageFrames)), graph.input())
    readers = [node for node in graph.body() if images in node.all_input_nodes]
    module = graph[readers[0]] if len(readers) == 1 and graph.is_a(readers[0], Affine) else None
    return (readers[0], module) if isinstance(module, Affine) else (images, None)
