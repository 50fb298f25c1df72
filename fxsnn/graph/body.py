"""Which part of a program is to spike, its body, and which is left as it is, its tail."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.fx.node import Node

from fxsnn.graph.kinds import (
    Activation,
    Leaky,
    Transposed,
    Weighted,
    calls_a,
    looks_like_activation,
    pools_evenly,
    pools_maxima,
    what_is_called,
)
from fxsnn.layers import AnyPool2d, Concat, Decode, Integers, Wiring

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, *Transposed)
_CALLED_CONVOLUTIONS = (F.conv1d, F.conv2d, F.conv_transpose1d, F.conv_transpose2d)


def ancestors(node: Node) -> set[Node]:
    """All nodes on whose values that of `node` depends."""
    found: set[Node] = set()
    waiting = list(node.all_input_nodes)
    while waiting:
        one = waiting.pop()
        if one not in found:
            found.add(one)
            waiting.extend(one.all_input_nodes)
    return found


def in_front_of_layers(module: fx.GraphModule) -> set[Node]:
    """The nodes behind which stands a layer with weights."""
    found: set[Node] = set()
    for node in reversed(module.graph.nodes):
        if any(user in found or _is_layer(module, user) for user in node.users):
            found.add(node)
    return found


def last_of_body(module: fx.GraphModule) -> Node | None:
    """The last node of the body; `None` where nothing is to spike.

    That is the last activation in front of a layer with weights, with the average poolings directly behind it. So the
    final layers, several of them in a row or side by side, are tail, whatever reads them. A network that ends with the
    activation of a convolution, and computes all else from that, ends its body there. In a converted network it is what
    `Decode` reads.
    """
    inner, last = in_front_of_layers(module), None
    of_convolution: Node | None = None  # an activation with no layer with weights behind it
    for node in module.graph.nodes:
        layer = module.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(layer, Decode):
            return node.all_input_nodes[0]
        activates = isinstance(layer, (*Activation, *Leaky))
        spikes = isinstance(layer, Integers) and layer.dynamics is not None
        if spikes or (activates and node in inner):
            last, of_convolution = node, None
        elif activates and _is_of_convolution(module, node):
            of_convolution = node
    for node in filter(None, (of_convolution, last)):
        end = _with_poolings(module, node)
        if node is last or _alone_is_read(end):
            return end
    return None


def meant_to_spike(module: fx.GraphModule) -> set[Node]:
    """The body, and of the rest what stands in front of an activation of a hidden layer that cannot spike.

    The first of two layers with weights was meant to spike where an activation or a maximum stands between them; all
    else a tail may compute.
    """
    last = last_of_body(module)
    body = set[Node]() if last is None else {last, *ancestors(last)}
    hidden = [
        node
        for node in in_front_of_layers(module) - body
        if _ends_hidden_layer(what_is_called(module, node).lower())
        and any(_is_layer(module, one) for one in ancestors(node) - body)
    ]
    return body.union(hidden, *map(ancestors, hidden))


def _ends_hidden_layer(name: str) -> bool:
    return pools_maxima(name) or looks_like_activation(name)


def _with_poolings(module: fx.GraphModule, node: Node) -> Node:
    """The last of the average poolings and wiring directly behind an activation, or itself.

    Training rounds behind each pooling. A concatenation is one of these where all that it reads is.
    """
    while (behind := _made_of(module, node)) is not None:
        node = behind
    return node


def _made_of(module: fx.GraphModule, node: Node) -> Node | None:
    """A pooling or wiring that alone reads an activation, or what becomes of such.

    It may be a concatenation of averages of whole maps: one of them alone is left to the tail.
    """
    sole = node.users if len(node.users) == 1 else ()
    for user in sole:
        if made_of_activations(module, user, partial(_passes_on, module)):
            return user
    averages = partial(_averages, module)
    while len(node.users) == 1:
        (node,) = node.users
        if not averages(node):
            break
        if calls_a(module, node, Concat):
            return node if made_of_activations(module, node, averages) else None
    return None


def _averages(module: fx.GraphModule, node: Node) -> bool:
    """Whether a call gives spikes of spikes once it is known over how many places it averages."""
    mean = (node.op, node.target) in (("call_method", "mean"), ("call_function", torch.mean))
    return mean or _passes_on(module, node) or calls_a(module, node, nn.AdaptiveAvgPool2d, nn.Flatten)


def _passes_on(module: fx.GraphModule, node: Node) -> bool:
    """Whether a call gives spikes of spikes without weights of its own."""
    layer = module.get_submodule(str(node.target)) if node.op == "call_module" else None
    if isinstance(layer, nn.AvgPool2d):
        return pools_evenly(layer)
    return isinstance(layer, Wiring | AnyPool2d)


def made_of_activations(module: fx.GraphModule, node: Node, passes_on: Callable[[Node], bool]) -> bool:
    """Whether a call gives activations, or what calls that pass them on make of nothing else."""
    if calls_a(module, node, *Activation):
        return True
    return passes_on(node) and all(made_of_activations(module, one, passes_on) for one in node.all_input_nodes)


def _is_of_convolution(module: fx.GraphModule, node: Node) -> bool:
    """Whether the layer with weights whose activation this is convolves."""
    while read := [one for one in node.all_input_nodes if one.op != "get_attr"]:
        node = read[0]
        if _is_layer(module, node):
            return calls_a(module, node, *_CONVOLUTIONS) or node.target in _CALLED_CONVOLUTIONS
    return False


def _alone_is_read(end: Node) -> bool:
    """Whether nothing but the last node of a body, and the images, is read behind it."""
    body = {end, *ancestors(end)}
    early = (node for node in body if node is not end and node.op != "placeholder")
    return all(user in body for node in early for user in node.users)


def _is_layer(module: fx.GraphModule, node: Node) -> bool:
    """Whether it calls a layer with weights, as a function or on signals, too: the front end makes one of it."""
    return calls_a(module, node, *_CONVOLUTIONS, *Weighted) or node.target in (*_CALLED_CONVOLUTIONS, F.linear)
