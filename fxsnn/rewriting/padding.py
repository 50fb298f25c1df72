"""Padding as a layer or a call of its own: by how much it pads, and which layer behind it can do so instead."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.fx.node import Node

from fxsnn.graph import Activation, Graph
from fxsnn.layers import Lift, PaddedConv2d, Sides, pair, sides_of
from fxsnn.rewriting.reasons import NotRewritten

NONE: Sides = (0, 0, 0, 0)
_CONSTANT = (nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d)
OF_A_SIZE = "Pad with zeros, or give example=..., images of the size that the network is for"
_OTHER = ("ReflectionPad", "ReplicationPad", "CircularPad")


def is_padding(graph: Graph, node: Node) -> bool:
    """Whether a node pads, with whatever."""
    if node.op == "call_module":
        module = graph[node]
        return isinstance(module, _CONSTANT) or type(module).__name__.startswith(_OTHER)
    return node.target in (F.pad, torch.constant_pad_nd)


def padding_of(graph: Graph, node: Node) -> Sides:
    """By how much a node that pads does so on each side.

    Raises:
        NotRewritten: it is no padding of maps with zeros.
    """
    around: Any
    mode: Any
    value: Any
    if node.op == "call_module":
        module: Any = graph[node]
        if not isinstance(module, _CONSTANT):
            raise NotRewritten(f"{type(module).__name__} pads with values of the map", OF_A_SIZE)
        around, mode, value = list(module.padding), "constant", module.value
    else:
        names = ("pad", "mode", "value") if node.target is F.pad else ("pad", "value")
        given = {"mode": "constant", "value": None, **dict(zip(names, node.args[1:], strict=False)), **node.kwargs}
        mode, value, around = given["mode"], given["value"], given["pad"]
    if mode != "constant":
        raise NotRewritten(f"its mode is {mode!r}", OF_A_SIZE)
    if isinstance(value, Node) or value not in (None, 0):
        raise NotRewritten(f"it pads with {value}", "Pad with zeros")
    if not isinstance(around, list | tuple) or not all(isinstance(side, int) for side in around):
        remedy = "Write its sides as numbers, or give example=..., images of the size that the network is for"
        raise NotRewritten("its sides depend on the size of what it reads, which is not known", remedy)
    if any(side < 0 for side in around):
        remedy = "Pad the layer in front of it less, or cut the images"
        raise NotRewritten(f"its padding {tuple(around)} is negative: it cuts the map", remedy)
    left, right, top, bottom, *others = [*around, *NONE][: max(4, len(around))]
    if any(others):
        raise NotRewritten(f"its padding {tuple(around)} adds channels or images", "Pad height and width only")
    return (top, bottom, left, right)


def reader_of(graph: Graph, node: Node, sides: Sides) -> Node:
    """The convolution or pooling behind a padding that can pad instead, past what maps zero to zero.

    Raises:
        NotRewritten: there is none.
    """
    reader = graph.sole_user(node)
    while reader is not None and _passes(graph, reader, sides):
        reader = graph.sole_user(reader)
    if not graph.is_a(reader, nn.Conv2d, nn.AvgPool2d) or reader is None:
        readers = [reader] if reader is not None else sorted(node.users)
        told = ", ".join(map(graph.name, readers)) or "nothing"
        remedy = "Put it directly in front of the one convolution or average pooling that is to read what it pads"
        raise NotRewritten(f"it is read by {told}, which cannot pad instead", remedy)
    padded(graph[reader], sides)
    return reader


def _passes(graph: Graph, node: Node, sides: Sides) -> bool:
    """Whether it is all the same if zeros are put around a map in front of a node or behind it."""
    if is_padding(graph, node):
        return True
    module: Any = graph[node] if node.op == "call_module" else None
    if isinstance(module, nn.Hardtanh):  # ReLU6 is one
        return bool(module.min_val <= 0 <= module.max_val)
    return isinstance(module, Activation) or (isinstance(module, Lift) and sides[:2] == (0, 0))


def padded(layer: Any, more: Sides) -> Sides:
    """By how much a convolution or pooling pads if it pads by `more` than it does.

    Raises:
        NotRewritten: it cannot.
    """
    if isinstance(layer, nn.Conv2d):
        if type(layer) not in (nn.Conv2d, PaddedConv2d) or layer.padding_mode != "zeros":
            raise NotRewritten(f"the convolution that reads it pads by {layer.padding_mode!r}", "Pad with zeros only")
        return _sum(sides_of(layer), more)
    tall, wide = pair(layer.padding)
    top, bottom, left, right = sides = _sum((tall, tall, wide, wide), more)
    height, width = pair(layer.kernel_size)
    counted = layer.count_include_pad or not (tall or wide) or layer.divisor_override is not None
    if (top, left) != (bottom, right) or 2 * top > height or 2 * left > width or layer.ceil_mode or not counted:
        raise NotRewritten(
            f"the pooling that reads it would pad by {sides} (top, bottom, left, right)",
            "Pad both sides alike and by no more than half of the pooling's window, or in front of a convolution",
        )
    return sides


def _sum(one: Sides, other: Sides) -> Sides:
    return (one[0] + other[0], one[1] + other[1], one[2] + other[2], one[3] + other[3])
