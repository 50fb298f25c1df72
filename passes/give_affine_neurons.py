"""GiveAffineNeurons: a scale and a shift between two activations is a layer of neurons."""

from __future__ import annotations

from torch.fx.node import Node

from fxsnn.graph import Activation, Graph
from fxsnn.layers import Add, Affine
from fxsnn.rewriting import Pass, facts, is_on_images


class GiveAffineNeurons(Pass):
    """An `Affine` that only an activation reads becomes a sum of one input, whose neurons that activation is.

    That is a batch norm between two ReLUs, as dense blocks have it, which no layer with weights can take in: the
    neurons read each channel by one whole number. `MoveAffine` comes first; what it can move costs no neurons.
    """

    needs = facts("canonical")
    preserves = True

    def rewrite(self, graph: Graph) -> None:
        """Edit `graph` in place."""
        for node in graph.body(Affine):
            if _stands_alone(graph, node):
                affine = graph[node]
                assert isinstance(affine, Affine)
                graph.replace(node, Add(affine.scale[None], affine.shift).eval())


def _stands_alone(graph: Graph, node: Node) -> bool:
    return graph.is_a(graph.sole_user(node), *Activation) and not is_on_images(graph, node)
