"""What is said about a call that no layer of the chip stands for, and what to do instead."""

from __future__ import annotations

import operator
from collections.abc import Iterator

import torch
from torch import nn
from torch.fx.node import Node

from fxsnn.errors import Finding
from fxsnn.graph import Graph, in_front_of_layers, looks_like_activation, pools_maxima, value_sizes, what_is_called
from fxsnn.layers import Lift
from fxsnn.rewriting.activations import find_nearly_rectifiers, unknown_activations
from fxsnn.rewriting.affine_ways import about_constant
from fxsnn.rewriting.maxima import remedy_for_maxima
from fxsnn.rewriting.neurons import NOTHING_TO_CONVERT

_BRANCHES = "Joining two branches in this way is not supported: supported are sums of tensors of one shape"
_ACTIVATION = (
    "Train it with nn.ReLU, nn.ReLU6 or nn.Hardtanh(0, c), which may be shifted and scaled: only numbers from zero up "
    "can be firing rates"
)
_RESHAPES = ("reshape", "squeeze", "unflatten", "unsqueeze", "view")
_NEARLY = "Train it with nn.ReLU, which fxsnn.passes.ReplaceActivation puts in its place"
_BY_HAND = "Use nn.ReLU, clamp(x, 0, c) or floor(clamp(x / c, 0, 1) * L + 0.5) / L * c"


def about_nothing_to_convert(graph: Graph) -> list[Finding]:
    """Why no layer was found that spikes: what stands in the places of activations, or cannot be looked into."""
    inner, found = in_front_of_layers(graph.module), list[Finding]()
    for node in graph.nodes():
        found.extend(filter(None, [_about_torchscript(graph, node)]))
    for nodes in unknown_activations(graph):
        if inner.intersection(nodes):
            found.extend(about_unsupported(graph, nodes[0]))
    return found or [NOTHING_TO_CONVERT]


def _about_torchscript(graph: Graph, node: Node) -> Finding | None:
    if node.op != "get_attr" or not isinstance(graph.held(node), torch._C.ScriptModule):
        return None
    name = str(node.target).removesuffix("._c")
    return Finding(
        name, "it is a TorchScript module, which shows no layers", "Put the module that it was made of in its place"
    )


def about_unsupported(graph: Graph, node: Node) -> Iterator[Finding]:
    """What stands in the way; of several calls that are one activation together, the first one tells.

    Args:
        graph: behind the front end.
        node: a call in front of the tail that cannot spike.
    """
    if any(_about_torchscript(graph, one) is not None for one in node.all_input_nodes):
        return  # what it calls is refused itself
    if node.target == "size" and node.users and all(_shape_of_images(graph, user) for user in node.users):
        return  # so is what it is asked for
    if (script := _about_torchscript(graph, node)) is not None:
        yield script
        return
    reads = set(node.users) if node.op == "get_attr" else {node}
    together = next((nodes for nodes in unknown_activations(graph) if reads.issubset(nodes)), [])
    if len(together) > 1:
        if node is together[0]:
            problem = f"with what follows up to {graph.name(together[-1])} it is no activation that is supported"
            remedy = _NEARLY if find_nearly_rectifiers(graph, together) else _BY_HAND
            yield graph.finding(node, problem, remedy)
    elif (about := about_constant(graph, node)) is not None:
        yield about
    else:
        what = what_is_called(graph.module, node)
        what = what.replace("2d", "1d") if graph.is_a(node, nn.MaxPool2d) and graph.nodes(Lift) else what
        problem = f"{what} is not supported in front of the last layers with weights"
        yield graph.finding(node, problem, _remedy(graph, node, what.lower(), together))


def _remedy(graph: Graph, node: Node, called: str, together: list[Node]) -> str:
    """What to do about a call of that name; with it, where it may be an activation."""
    sides, calls = 1 if "1d" in called else 2, ("call_function", "call_method")
    if pools_maxima(called):
        return remedy_for_maxima(graph, node).format(sides)
    if "avgpool" in called or "avg_pool" in called:
        return f"Use nn.AvgPool{sides}d with a fixed window, or move it behind the last ReLU"
    if "dropout" in called:
        return "Pass training=self.training, so that it rests in evaluation mode"
    if (shape := _shape_of_images(graph, node)) is not None:
        line = f"write images.reshape(-1, {shape}) where they are prepared"
        return f"Give images of shape [N, {shape}]: leave this call out of forward, and {line}"
    if node.op in calls and _asks_for_size(node, called):
        return "Do not read the size of an activation, except for flattening: use flatten(1)"
    if node.op in calls and all(source.op == "placeholder" for source in node.all_input_nodes):
        remedy = "Do it before the network, while the images are prepared"
        if graph.image_size is None:
            remedy = f"{remedy}; if it changes nothing at the size of yours, give example=..., images of that size"
        return remedy
    if node.op == "get_attr":
        return "Use a layer of torch.nn instead of a parameter or constant of your own"
    if "add" in called or "cat" in called:
        return _BRANCHES
    if together and find_nearly_rectifiers(graph, together):
        return _NEARLY
    if (looks_like_activation(called) and "clamp" not in called) or "softmax" in called:
        return _ACTIVATION
    if node.op in calls and together:
        return _BY_HAND
    return "Supported are Conv1d, Conv2d, their batch norms and average poolings, ReLU, Linear and flatten"


def _shape_of_images(graph: Graph, node: Node) -> str | None:
    """The shape, in words, that a call gives images whose numbers it leaves in their order; `None` if it does not."""
    called = what_is_called(graph.module, node)
    if node.op == "call_module" or called not in _RESHAPES or node.args[:1] != (graph.input(),):
        return None
    size = value_sizes(graph).get(node, ())
    return ", ".join(map(str, size)) if len(size) in (2, 3) else None


def _asks_for_size(node: Node, called: str) -> bool:
    """Whether a call of that name is about the size of something; it may crop the images instead."""
    crops = node.target is operator.getitem and node.all_input_nodes[0].op == "placeholder"
    return any(word in called for word in ("size", "getattr", "getitem")) and not crops
