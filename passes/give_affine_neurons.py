"""GiveAffineNeurons: a scale and a shift that no layer can take in is a layer of neurons."""

from __future__ import annotations

from torch import nn
from torch.fx.node import Node

from fxsnn.graph import Activation, Graph, Norm, Weighted, in_front_of_layers
from fxsnn.layers import Add, Affine, Wiring
from fxsnn.rewriting import Pass, adds_up_activations, facts, is_on_images


class GiveAffineNeurons(Pass):
    """An `Affine` that only an activation or wiring reads becomes a sum of one input, which neurons compute.

    That is a batch norm between two ReLUs, as dense blocks have it, or a scale of one branch of a concatenation, which
    no layer with weights can take in: the neurons read each channel by one whole number. In front of wiring, what is
    nowhere negative gets the `ReLU` that they stand for. `MoveAffine` comes first; what it can move costs no neurons.

    So does a convolution of activations without a negative weight, such as one that blurs, and a sum of which only the
    passes before have shown that it is nowhere negative.
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
        body, inner = set(graph.body()), in_front_of_layers(graph.module)
        for node in graph.nodes(Add, *Weighted):
            spikes = node in (inner if graph.is_a(node, Add) else body)
            if spikes and not _ends(graph, graph.sole_user(node)) and adds_up_activations(graph, node):
                graph.insert_after(node, f"{graph.name(node)}_relu", nn.ReLU().eval())


def _ends(graph: Graph, behind: Node | None) -> bool:
    """Whether what stands behind a layer or sum makes more of it than what a ReLU would give."""
    return graph.is_a(behind, *Activation, *Norm, Add)


def _stands_alone(graph: Graph, node: Node) -> bool:
    return graph.is_a(graph.sole_user(node), *Activation, Wiring) and not is_on_images(graph, node)
