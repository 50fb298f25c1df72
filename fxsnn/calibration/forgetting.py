"""Taking a calibration off a graph again, and whatever training made of it."""

from __future__ import annotations

from typing import Any

from torch import nn

from fxsnn.graph import Graph, Pooling
from fxsnn.layers import AnyPool2d, AverageFrames, BoundedReLU, ClippedReLU, QuantizedInput

QUANTIZED_INPUT = "quantized_input"
"""The name of the node that calibration puts behind the input."""


def forget_calibration(graph: Graph) -> None:
    """Take off, in place, the thresholds and the input's step that a calibration or a training put there.

    What the user has clipped or quantised in the network stays as it is; an activation with a bound gets it back.
    """
    for node in graph.body(ClippedReLU):
        clipped: Any = graph[node]
        trained = clipped.dynamics is not None
        if trained and graph.is_a(node.all_input_nodes[0], *Pooling):  # levels of poolings
            graph.bypass(node)
        elif trained or clipped.summary is not None:
            own = nn.ReLU() if clipped.bound is None else BoundedReLU(clipped.bound)
            graph.replace(node, own.eval())
    for node in graph.body(AnyPool2d):
        pool: Any = graph[node]
        if pool.unit is not None:
            graph.replace(node, AnyPool2d(pool.rows, pool.columns).eval())
    for node in graph.body(QuantizedInput):
        quantized: Any = graph[node]
        if quantized.frames:
            graph.insert_after(graph.input(), "average_frames", AverageFrames().eval())
        if quantized.affine is not None:
            graph.replace(node, quantized.affine)
        elif node.target == QUANTIZED_INPUT:
            graph.bypass(node)
    graph.tidy()
