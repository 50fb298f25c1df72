"""Where the scale and shift of a channel can go without another result, and why one has to stay where it is.

`MoveAffine` acts on it, `CheckConvRelu` speaks about it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.fx.node import Node

from fxsnn.errors import Finding
from fxsnn.graph import Activation, Graph, Norm, Weighted, normalised_images
from fxsnn.layers import (
    Add,
    Affine,
    BoundedReLU,
    FixedSize,
    Lift,
    LowBit,
    Spiking,
    Spread,
    Wiring,
    WithinChannels,
)
from fxsnn.rewriting.affine_calls import affine_of, is_arithmetic, source_of_affine

_IN_FRONT = "put the batch norm between the layer and its ReLU, where it can always be folded in"
_FROM_ZERO = "use an activation that begins at zero, such as nn.Hardtanh(0, c)"
_ELSEWHERE = 'convert for a target with convolutions of 1x1, such as "generic"'


@dataclass(frozen=True)
class Way:
    """Where the scale and shift of a call can go.

    Attributes:
        into: the layer with weights behind it that can do it; `None` where none can.
        past: calls that it has to pass on its way forward, in order.
        reaches_tail: behind these stands the tail.
        blocked_by: the first call that it cannot pass, or the layer that cannot take it.
    """

    into: Node | None = None
    past: tuple[Node, ...] = ()
    reaches_tail: bool = False
    blocked_by: Node | None = None


def way_forward(graph: Graph, node: Node, affine: Affine, body: set[Node], *, past_others: bool = False) -> Way:
    """Where a scale and shift in the body can go, in the direction in which the network computes.

    Args:
        graph: the network.
        node: the call.
        affine: what it does.
        body: that of the graph.
        past_others: other scales and shifts on the way are not in the way: they will go there first.
    """
    past: list[Node] = []
    here = node
    while (behind := graph.sole_user(here)) is not None and behind in body:
        if graph.is_a(behind, *Weighted):
            takes = can_take(graph, behind, affine)
            return Way(behind, tuple(past)) if takes else Way(past=tuple(past), blocked_by=behind)
        if not _can_pass(graph, behind, affine) and not (past_others and affine_of(graph, behind) is not None):
            return Way(past=tuple(past), blocked_by=behind)
        past.append(behind)
        here = behind
    in_body = sorted(reader for reader in here.users if reader in body)
    return Way(past=tuple(past), reaches_tail=not in_body, blocked_by=in_body[0] if in_body else None)


def _can_pass(graph: Graph, node: Node, affine: Affine) -> bool:
    if graph.is_a(node, Spread):
        return not affine.shifts
    module = graph[node] if node.op == "call_module" else None
    if isinstance(module, WithinChannels):
        return not module.pads
    pools = pools_alike(graph, node, affine) or pools_maxima_alike(graph, node, affine)
    return pools or graph.is_a(node, nn.Flatten, nn.AdaptiveAvgPool2d, FixedSize, Lift)


def pools_maxima_alike(graph: Graph, node: Node, affine: Affine) -> bool:
    """Whether a call is a max pooling, and numbers keep their order when they are scaled and shifted.

    What it pads with is less than all of them before and after.
    """
    pool: Any = graph[node] if graph.is_a(node, nn.MaxPool2d) else None
    rises = affine.scale.is_meta or bool((affine.scale > 0).all())
    return pool is not None and not pool.return_indices and rises


def pools_alike(graph: Graph, node: Node, affine: Affine) -> bool:
    """Whether a call is an average pooling whose averages of scaled and shifted numbers are averages, scaled and
    shifted.
    """
    pool: Any = graph[node] if graph.is_a(node, nn.AvgPool2d) else None
    if pool is None or pool.divisor_override is not None:
        return False
    padded = pool.padding not in (0, (0, 0), (0,))
    return not affine.shifts or not padded or not pool.count_include_pad


def pads_with_zeros(conv: Any) -> bool:
    """Whether some windows of a convolution read zeros that are not in the maps."""
    return bool(conv.padding_mode == "zeros" and any(conv._reversed_padding_repeated_twice))


def can_take(graph: Graph, reader: Node, affine: Affine) -> bool:
    """Whether a layer with weights can do the scale and shift of what it reads, too."""
    layer: Any = graph[reader]
    if isinstance(layer, LowBit | Spiking) or len(graph.calls(str(reader.target))) > 1:
        return False
    if isinstance(layer, nn.Linear):
        return graph.reads_features(reader) and layer.in_features % affine.channels == 0
    return affine.channels in (1, layer.in_channels) and not (affine.shifts and pads_with_zeros(layer))


def is_on_images(graph: Graph, node: Node) -> bool:
    """Whether a call reads the images themselves, signals perhaps as maps."""
    before = source_of_affine(graph, node)
    while before is not None and graph.is_a(before, FixedSize, Lift):
        before = source_of_affine(graph, before)
    return before is not None and before.op == "placeholder"


def can_give(graph: Graph, node: Node, affine: Affine) -> bool:
    """Whether a call is of a layer with weights, or of its batch norm, that can do it to what it gives."""
    if not graph.is_a(node, *Weighted, *Norm) or len(graph.calls(str(node.target))) > 1:
        return False
    layer: Any = graph[node]
    if isinstance(layer, Norm):
        before = source_of_affine(graph, node)
        return graph.is_a(before, *Weighted) and layer.running_mean is not None
    return not isinstance(layer, LowBit | Spiking) and affine.channels in (1, len(layer.weight))


def swap_calls(graph: Graph, first: Node, second: Node) -> None:
    """Let two calls, of which the second alone reads the first, change places."""
    source = next(one for one in first.all_input_nodes if one.op != "get_attr")
    second.replace_all_uses_with(first)
    second.replace_input_with(first, source)
    first.replace_input_with(source, second)
    second.append(first)
    for constant in first.all_input_nodes:
        if constant.op == "get_attr" and graph.sole_user(constant) is first:
            first.prepend(constant)


def _behind_clip(graph: Graph, node: Node) -> bool:
    """Whether a call reads an activation with an upper end, which may begin elsewhere in the user's words."""
    before = source_of_affine(graph, node)
    while before is not None and graph.is_a(before, nn.AvgPool2d, Affine):
        before = source_of_affine(graph, before)
    return graph.is_a(before, BoundedReLU)


def about_affine(graph: Graph, node: Node) -> Finding | None:
    """Why an `Affine` cannot stay where it is, and could not go anywhere else; `None` where it can stay.

    Args:
        graph: with all moved that can be.
        node: a call of an `Affine` in the body.
    """
    affine: Any = graph[node]
    if normalised_images(graph)[0] is node and not any(reader not in graph.body() for reader in node.users):
        return None
    way = way_forward(graph, node, affine, set(graph.body()))
    what, blocked = "it shifts each channel" if affine.shifts else "it scales each channel", way.blocked_by
    if blocked is None or len(node.users) > 1:
        readers = ", ".join(graph.name(reader) for reader in sorted(node.users))
        return graph.finding(node, f"{what}, and what it gives is read by {readers}", "Let one layer read it")
    clips = _behind_clip(graph, node)
    in_front = f"{_IN_FRONT}, or {_FROM_ZERO}" if clips else _IN_FRONT
    if graph.is_a(blocked, nn.Conv2d) and pads_with_zeros(graph[blocked]):
        where = f"in front of {graph.name(blocked)}, which pads with zeros: its windows at the border read fewer shifts"
        remedy = f"Train with padding=0 in {graph.name(blocked)}, or {in_front}, or {_ELSEWHERE}"
    elif graph.is_a(blocked, nn.AvgPool2d):
        where = f"in front of {graph.name(blocked)}, whose windows at the border average zeros as well"
        remedy = f"Train with padding=0 in {graph.name(blocked)}, or {in_front}, or {_ELSEWHERE}"
    elif graph.is_a(blocked, *Activation):
        where = f"between activations, in front of {graph.name(blocked)}: no layer with weights reads it"
        remedy = "Put a convolution or fully connected layer between, or leave one activation out"
    elif graph.is_a(blocked, Add, Wiring):
        where = f"in front of {graph.name(blocked)}, which no layer can do for it there"
        remedy = "Put it behind a ReLU of its own, or in front of the ReLU that it reads"
    elif not graph.is_a(blocked, *Weighted, *Norm):
        return None  # that is refused itself
    else:
        where = f"in front of {graph.name(blocked)}, which cannot take it"
        remedy = f"Put it in front of the activation or directly behind the layer; of a batch norm, {_IN_FRONT}"
    return graph.finding(node, f"{what} {where}", remedy)


def about_constant(graph: Graph, node: Node) -> Finding | None:
    """About arithmetic with constants that is no scale and shift of channels; `None` about all else."""
    constants = [one for one in node.all_input_nodes if one.op == "get_attr"]
    if not is_arithmetic(node) or not constants or source_of_affine(graph, node) is None:
        return None
    names = ", ".join(str(one.target) for one in constants)
    return graph.finding(
        node,
        f"it calculates with {names}, which is not one finite number for each channel",
        "Use one number a channel, [C, 1, 1] for maps; what differs between pixels does not fit into weights: do it to "
        "the images before the network, if it is on them",
    )
