"""GiveAffineNeurons: a scale and a shift that no layer can take in is a layer of neurons."""

from __future__ import annotations

from torch import nn
from torch.fx.node import Node

from fxsnn.graph import Activation, Graph
from fxsnn.layers import Add, Affine, Wiring
from fxsnn.rewriting import Pass, adds_up_activations, facts, is_on_images


class GiveAffineNeurons(Pass):
    """An `Affine` that only an activation or wiring reads becomes a sum of one input, which neurons compute.

    That is a batch norm between two ReLUs, as dense blocks have it, or a scale of one branch of a concatenation, which
    no layer with weights can take in: the neurons read each channel by one whole number. In front of wiring, what is
    nowhere negative gets the `ReLU` that they stand for. `MoveAffine` comes first; what it can move costs no neurons.
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
                if adds_up_activations(graph, node) and not graph.is_a(graph.sole_user(node), *Activation):
                    graph.insert_after(node, f"{graph.name(node)}_relu", nn.ReLU().eval())


def _stands_alone(graph: Graph, node: Node) -> bool:
    return graph.is_a(graph.sole_user(node), *Activation, Wiring) and not is_on_images(graph, node)
