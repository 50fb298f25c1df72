"""GiveAffineNeurons: a scale and a shift that no layer can take in is a layer of neurons."""

from __future__ import annotations

from itertools import takewhile
from typing import Any

import torch
from torch import nn
from torch.fx.node import Node

from fxsnn.graph import Activation, Graph, Norm, Pooling, Weighted, in_front_of_layers
from fxsnn.layers import Add, Affine, BoundedReLU, FixedSize, Lift, Spread, Wiring, along_inputs, conv_like
from fxsnn.rewriting import Pass, adds_up_activations, facts, is_on_images, swap_calls, way_forward

_ONE_SIGN, _BOTH_SIGNS = (1.0,), (1.0, -1.0)
"""What the neurons of a channel are given: a number, or its negative as well."""


class GiveAffineNeurons(Pass):
    """An `Affine` that no layer beside it can take in becomes neurons. `MoveAffine` comes first: that costs none.

    In front of a convolution that pads it is a convolution of 1x1, each channel by itself, with a ReLU: every chip has
    that. Where it may be negative each channel has two, `ReLU(z)` and `ReLU(-z)`, and the layer that pads reads both,
    with weights of both signs. So it is with a batch norm behind its ReLU, poolings between or not.

    In front of a ReLU on the images it is such a convolution, too: the first layer.

    What only an activation reads, a batch norm between two ReLUs as dense blocks have it, what wiring reads, such as a
    scale of one branch of a concatenation, and what several read becomes a sum of one input: neurons that read each
    channel by one whole number. In front of wiring, what is nowhere negative gets the `ReLU` that they stand for.
    So does a convolution of activations without a negative weight, such as one that blurs, and a sum of which only the
    passes before have shown that it is nowhere negative.

    An activation with an upper end that reads another one, poolings between or not, has such neurons, too.

    Args:
        convolutions: the chip has convolutions of 1x1; without them, what a convolution that pads reads stays.

    Examples:
        >>> import torch, fxsnn
        >>> from torch import nn
        >>> from fxsnn.passes import RecognizeAffine
        >>> net = nn.Sequential(
        ...     nn.Conv2d(1, 2, 3), nn.ReLU(), nn.BatchNorm2d(2), nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(),
        ...     nn.Flatten(), nn.Linear(144, 2),
        ... ).eval()
        >>> _ = nn.init.constant_(net[2].bias, -0.5)
        >>> step = GiveAffineNeurons()(RecognizeAffine()(fxsnn.capture(net)).after)
        >>> step.after["2"], step.after["3"].in_channels
        (Conv2d(2, 4, kernel_size=(1, 1), stride=(1, 1), groups=2), 4)
    """

    convolutions: bool = True

    needs = facts("canonical")
    preserves = True

    def rewrite(self, graph: Graph) -> None:
        """Edit `graph` in place."""
        for node in graph.body(Affine):
            affine: Any = graph[node]
            if is_on_images(graph, node):
                if self.convolutions:
                    _give_to_images(graph, node, affine)
                continue
            way = way_forward(graph, node, affine, set(graph.body()))
            for behind in takewhile(lambda one: graph.is_a(one, nn.AvgPool2d, nn.MaxPool2d), way.past):
                swap_calls(graph, node, behind)  # fewer neurons
            reader = _convolution_behind(graph, node)
            if reader is not None:
                if self.convolutions:
                    _put_convolution(graph, node, affine, reader)
            elif len(node.users) > 1 or graph.is_a(graph.sole_user(node), *Activation, Wiring):
                graph.replace(node, Add(affine.scale[None], affine.shift).eval())
        if self.convolutions:
            for node in graph.body(*Activation):
                _stand_before_images(graph, node)
        for node in graph.body(BoundedReLU):
            if graph.is_a(node.all_input_nodes[0], *Activation, *Pooling, Wiring, nn.Flatten):
                _clip_by_neurons(graph, node)
        body, inner = set(graph.body()), in_front_of_layers(graph.module)
        for node in graph.nodes(Add, *Weighted):
            spikes = node in (inner if graph.is_a(node, Add) else body)
            if spikes and not _ends(graph, graph.sole_user(node)) and adds_up_activations(graph, node):
                graph.insert_after(node, f"{graph.name(node)}_relu", nn.ReLU().eval())


def _ends(graph: Graph, behind: Node | None) -> bool:
    """Whether what stands behind a layer or sum makes more of it than what a ReLU would give."""
    return graph.is_a(behind, *Activation, *Norm, Add)


def _clip_by_neurons(graph: Graph, node: Node) -> None:
    """Let neurons of one input, that they do not change, stand in front of a clip of what is spikes already."""
    one = torch.ones(1, dtype=torch.float64, device=graph.device)
    source = node.all_input_nodes[0]
    graph.insert_after(source, f"{graph.name(node)}_add", Add(one[None], 0 * one).eval(), [node])


def _convolution_behind(graph: Graph, node: Node) -> Node | None:
    """The convolution that alone reads a call, perhaps through poolings and zeros between the places of maps."""
    behind = graph.sole_user(node)
    while graph.is_a(behind, nn.AvgPool2d, Spread) and behind is not None:
        behind = graph.sole_user(behind)
    if behind is None or not graph.is_a(behind, nn.Conv2d) or len(graph.calls(str(behind.target))) > 1:
        return None
    return behind


def _give_to_images(graph: Graph, node: Node, affine: Affine) -> None:
    """Let a convolution of 1x1 stand for what is done to images in front of an activation, which then is its own."""
    between: list[Node] = []
    behind = graph.sole_user(node)
    while behind is not None and graph.is_a(behind, Lift, FixedSize):
        between.append(behind)
        behind = graph.sole_user(behind)
    channels = graph.input_channels if affine.channels == 1 else affine.channels
    if channels is not None and not graph.reads_features(node) and graph.is_a(behind, *Activation):
        for one in between:
            swap_calls(graph, node, one)
        graph.replace(node, _convolution(affine, channels, _ONE_SIGN, graph.dtype))


def _stand_before_images(graph: Graph, node: Node) -> None:
    """Let a convolution of 1x1 that changes nothing read the images in front of an activation."""
    source, channels = node.all_input_nodes[0], graph.input_channels
    if channels is None or graph.reads_features(node):
        return
    if source.op == "placeholder" or (graph.is_a(source, Lift, FixedSize) and is_on_images(graph, source)):
        one = torch.ones(1, dtype=torch.float64, device=graph.device)
        same = _convolution(Affine(one, one * 0), channels, _ONE_SIGN, graph.dtype)
        layer = graph.call_before(node, f"{graph.name(node)}_images", same, [source])
        node.replace_input_with(source, layer)


def _put_convolution(graph: Graph, node: Node, affine: Affine, reader: Node) -> None:
    """Let a convolution of 1x1 stand for it, of each channel or of both signs of each."""
    layer: Any = graph[reader]
    graph.replace(node, _convolution(affine, layer.in_channels, _ONE_SIGN, layer.weight.dtype))
    signed = not adds_up_activations(graph, node)
    if signed:
        graph.replace(node, _convolution(affine, layer.in_channels, _BOTH_SIGNS, layer.weight.dtype))
    graph.insert_after(node, f"{graph.name(node)}_relu", nn.ReLU().eval())
    if signed:
        both: Any = conv_like(nn.Conv2d, layer)
        both.in_channels *= 2
        weight = layer.weight.detach().repeat_interleave(2, 1)
        weight = weight * along_inputs(weight.new_tensor(_BOTH_SIGNS).repeat(layer.in_channels), both)
        both.weight = nn.Parameter(weight, layer.weight.requires_grad)
        both.reads_signs_of = graph.name(node)
        graph.replace(reader, both)


def _convolution(affine: Affine, channels: int, signs: tuple[float, ...], dtype: torch.dtype) -> nn.Conv2d:
    """What scales and shifts each channel by itself, and gives that with each of the signs."""
    new = nn.Conv2d(channels, channels * len(signs), 1, groups=channels, device="meta").eval()
    weight, bias = (
        (part.expand(channels)[:, None] * part.new_tensor(signs)).flatten().to(dtype)
        for part in (affine.scale, affine.shift)
    )
    new.weight = nn.Parameter(weight.view(-1, 1, 1, 1), requires_grad=False)
    new.bias = nn.Parameter(bias, requires_grad=False)
    return new
