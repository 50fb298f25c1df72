"""Two linear layers, one behind the other, as one: where that is exact, and which layer it is.

Of convolutions, with kernel K, stride s, dilation d and padding p of the first (1) and the second (2): taps lie
`k2 * d2 * s1 + k1 * d1` apart, the stride is `s1 * s2`, the padding `p1 + s1 * p2`. Where the second pads, the first
would have to give zero on the places around its output, which the one layer computes as well: it must have no bias, and
read nothing but padding there.
"""

from __future__ import annotations

from collections.abc import Callable
from math import gcd
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.node import Node

from fxsnn.graph import Activation, Graph, Norm, Weighted, value_sizes
from fxsnn.layers import Affine, FixedSize, Lift, PaddedConv2d, Sides, affine_of_norm, convolution, pair, sides_of
from fxsnn.rewriting.poolings import averaging
from fxsnn.rewriting.reasons import NotRewritten

_LINEAR = (*Weighted, nn.AvgPool2d)
_RELU = "Put nn.ReLU directly behind it (a batch norm may stand between)"

Size = Callable[[], tuple[int, ...] | None]
"""Of what the first of two layers reads, [C, H, W]; `None` where it is not known."""


def layer_in_front(graph: Graph, node: Node) -> tuple[Node, list[Node]] | None:
    """The linear layer whose output a linear layer reads with no activation between, and the batch norms between them.

    An average pooling of spikes is none: it has neurons of its own.
    """
    norms = list[Node]()
    before = node.all_input_nodes[0]
    while graph.is_a(before, *Norm) and graph.sole_user(before) is not None:
        norms.insert(0, before)
        before = before.all_input_nodes[0]
    alone = graph.sole_user(before) is (norms[0] if norms else node)
    return (before, norms) if alone and graph.is_a(before, *_LINEAR) and _reads_no_spikes(graph, before) else None


def _reads_no_spikes(graph: Graph, node: Node) -> bool:
    """Whether a linear layer is no pooling of spikes."""
    while graph.is_a(node, nn.AvgPool2d, *Norm, Affine, Lift, FixedSize):
        node = node.all_input_nodes[0]
    return node.op == "placeholder" or graph.is_a(node, *Weighted)


def is_in_front_of_activation(graph: Graph, node: Node) -> bool:
    """Whether nothing but linear layers and batch norms stand between a linear layer and an activation."""
    reader: Node | None = node
    while graph.is_a(reader, *_LINEAR, *Norm) and reader is not None:
        reader = graph.sole_user(reader)
    return graph.is_a(reader, *Activation)


def composed(graph: Graph, first: Node, norms: list[Node], second: Node, size: Size) -> nn.Conv2d | nn.Linear:
    """The layer that does what two do, batch norms between them included; computed in double precision.

    Raises:
        NotRewritten: there is none.
    """
    name, linear = graph.name(second), graph.is_a(first, nn.Linear)
    if linear != graph.is_a(second, nn.Linear) or (linear and not graph.reads_features(first)):
        raise NotRewritten(f"it and {name} are of two kinds", _RELU)
    channels = _channels(graph, first, second)
    one, other = _plain(graph, first, channels), _plain(graph, second, channels)
    scale, shift = _scale_and_shift([graph[norm] for norm in norms], one.weight)
    weight = one.weight.detach().double() * scale.view(-1, *[1] * (one.weight.dim() - 1))
    bias = _bias(one) * scale + shift
    with_bias = bool(norms) or one.bias is not None or other.bias is not None
    weight, bias, sides = (
        (other.weight.detach().double() @ weight, other.weight.detach().double() @ bias + _bias(other), None)
        if linear
        else _composed_convolutions(one, weight, bias, other, name, size)
    )
    last: Any = other if graph.is_a(second, *Weighted) else one
    dtype, trains = last.weight.dtype, last.weight.requires_grad
    made: Any = (
        nn.Linear(weight.shape[1], weight.shape[0], with_bias, device="meta")
        if sides is None
        else convolution(
            tuple(weight.shape),
            (one.stride[0] * other.stride[0], one.stride[1] * other.stride[1]),
            sides,
            _spacing(one, other),
            gcd(one.groups, other.groups),
            bias=with_bias,
        )
    )
    made.weight = nn.Parameter(weight.to(dtype), trains)
    made.bias = nn.Parameter(bias.to(dtype), trains) if with_bias else None
    made.made_of = (*_names(graph, first), *_names(graph, second))
    layer: nn.Conv2d | nn.Linear = made.train(last.training)
    return layer


def _names(graph: Graph, node: Node) -> tuple[str, ...]:
    """Of the user's layers that a layer is made of."""
    names: tuple[str, ...] = getattr(graph[node], "made_of", (graph.name(node),))
    return names


def why_apart(graph: Graph, first: Node, second: Node) -> NotRewritten | None:
    """Why two nodes are not one layer; `None` where they are no linear layers in a row, or could be one."""
    found = layer_in_front(graph, second) if graph.is_a(second, *_LINEAR) else None
    if found is None or found[0] is not first:
        return None
    try:
        composed(graph, first, found[1], second, lambda: value_sizes(graph).get(first.all_input_nodes[0]))
    except NotRewritten as reason:
        return reason
    return None


def _channels(graph: Graph, first: Node, second: Node) -> int:
    """Of the map between two layers, and of the map in front of a pooling."""
    while graph.is_a(first, nn.AvgPool2d, *Norm, Affine, Lift, FixedSize):
        first = first.all_input_nodes[0]
    if graph.is_a(first, nn.Conv2d):
        return graph[first].out_channels  # type: ignore[return-value]  # fx types it wider
    while graph.is_a(second, nn.AvgPool2d, *Norm):
        (second,) = second.users
    return int(getattr(graph[second], "in_channels", 0))


def _plain(graph: Graph, node: Node, channels: int) -> Any:
    """A layer; of a pooling the convolution of each channel by itself that it is.

    Raises:
        NotRewritten: it is a layer of another stage, or does not pad with zeros.
    """
    layer: Any = graph[node]
    if isinstance(layer, nn.AvgPool2d):
        counted = layer.count_include_pad or not any(pair(layer.padding)) or layer.divisor_override is not None
        if layer.ceil_mode or not counted or not channels:
            raise NotRewritten(f"the windows of {graph.name(node)} differ in size", _RELU)
        return averaging(layer, channels).to(graph.device)
    if type(layer) not in (nn.Conv2d, PaddedConv2d, nn.Linear) or getattr(layer, "padding_mode", "zeros") != "zeros":
        raise NotRewritten(f"{graph.name(node)} is no plain layer", _RELU)
    return layer


def _bias(layer: Any) -> Tensor:
    if layer.bias is None:
        return torch.zeros(layer.weight.shape[0], dtype=torch.float64, device=layer.weight.device)
    bias: Tensor = layer.bias.detach().double()
    return bias


def _scale_and_shift(norms: list[Any], like: Tensor) -> tuple[Tensor, Tensor]:
    """What batch norms do to each channel, float64."""
    ones = torch.ones(like.shape[0], dtype=torch.float64, device=like.device)
    both = Affine(ones, torch.zeros_like(ones))
    for norm in norms:
        if norm.running_mean is None:
            remedy = "Train with track_running_stats=True"
            raise NotRewritten("the batch norm behind it has no running statistics", remedy)
        both = both.then(affine_of_norm(norm))
    return both.scale, both.shift


def _spacing(one: Any, other: Any) -> tuple[int, int]:
    """The dilation of the one convolution."""
    height, width = (
        gcd(
            one.dilation[axis] if one.kernel_size[axis] > 1 else 0,
            other.dilation[axis] * one.stride[axis] if other.kernel_size[axis] > 1 else 0,
        )
        or 1
        for axis in (0, 1)
    )
    return height, width


def _composed_convolutions(
    one: Any, weight: Tensor, bias: Tensor, other: Any, name: str, size: Size
) -> tuple[Tensor, Tensor, Sides]:
    """Weight and bias of the one convolution, and by how much it pads.

    Args:
        one: the geometry of the first.
        weight: of the first, float64, as `bias`.
        bias: of the first.
        other: the second.
        name: of the second.
        size: of what the first reads.
    """
    before, behind = sides_of(one), sides_of(other)
    _require_zero_around(one, bias, behind, name, size)
    last = other.weight.detach().double()
    products = _products(weight, one.groups, last, other.groups)
    spacing = _spacing(one, other)
    steps = [
        (max(1, one.dilation[axis] // spacing[axis]), other.dilation[axis] * one.stride[axis] // spacing[axis])
        for axis in (0, 1)
    ]
    reach = [
        (one.kernel_size[axis] - 1) * steps[axis][0] + (other.kernel_size[axis] - 1) * steps[axis][1] + 1
        for axis in (0, 1)
    ]
    kernel = products.new_zeros(*products.shape[:2], *reach)
    for row in range(other.kernel_size[0]):
        for column in range(other.kernel_size[1]):
            rows, columns = (
                slice(place * far, place * far + (side - 1) * near + 1, near)
                for place, side, (near, far) in zip((row, column), one.kernel_size, steps, strict=True)
            )
            kernel[:, :, rows, columns] += products[:, :, row, column]
    inputs = other.weight.shape[1]
    summed = torch.einsum(
        "goi,gi->go", last.flatten(2).sum(2).view(other.groups, -1, inputs), bias.view(other.groups, inputs)
    )
    down, across = one.stride
    top, bottom, left, right = behind
    more = (top * down, bottom * down, left * across, right * across)
    sides = (before[0] + more[0], before[1] + more[1], before[2] + more[2], before[3] + more[3])
    return kernel, summed.flatten() + _bias(other), sides


def _products(first: Tensor, first_groups: int, second: Tensor, second_groups: int) -> Tensor:
    """Products of taps, summed over the channels between: [outputs, inputs, *taps of the second, *of the first]."""
    groups = gcd(first_groups, second_groups)
    outputs, taps = second.shape[0], (*second.shape[2:], *first.shape[2:])
    if second_groups > groups < first_groups:
        first, first_groups = _in_larger_groups(first, first_groups, groups), groups
    first, second = first.flatten(2), second.flatten(2)
    if second_groups == groups:  # each group of the second reads whole groups of the first
        parts, between, inputs = first_groups // groups, first.shape[0] // first_groups, first.shape[1]
        one = first.reshape(groups, parts, between, inputs, -1)
        other = second.reshape(groups, outputs // groups, parts, between, -1)
        return torch.einsum("gopcu,gpcit->gopiut", other, one).reshape(outputs, parts * inputs, *taps)
    parts, between, inputs = second_groups // groups, second.shape[1], first.shape[1]
    one = first.reshape(groups, parts, between, inputs, -1)
    other = second.reshape(groups, parts, outputs // second_groups, between, -1)
    return torch.einsum("gpocu,gpcit->gpoiut", other, one).reshape(outputs, inputs, *taps)


def _in_larger_groups(weight: Tensor, groups: int, fewer: int) -> Tensor:
    """The weight of the same convolution with fewer groups, zeros between those that it had."""
    outputs, inputs = weight.shape[0] // groups, weight.shape[1]
    joined = groups // fewer
    whole = weight.new_zeros(fewer, joined, outputs, joined, inputs, *weight.shape[2:])
    split = weight.reshape(fewer, joined, outputs, inputs, *weight.shape[2:])
    for part in range(joined):
        whole[:, part, :, part] = split[:, part]
    return whole.reshape(fewer * joined * outputs, joined * inputs, *weight.shape[2:])


def _require_zero_around(one: Any, bias: Tensor, behind: Sides, name: str, size: Size) -> None:
    """Refuse a padding of the second layer around which the first would not give zero.

    Raises:
        NotRewritten: it would not.
    """
    if not any(behind):
        return
    remedy = f"{_RELU}, or let {name} pad nothing"
    if bias.is_meta or bool(bias.any()):
        raise NotRewritten(f"{name} pads with zeros what has a bias", remedy)
    before = sides_of(one)
    for axis in (0, 1):
        kernel, stride, dilation = one.kernel_size[axis], one.stride[axis], one.dilation[axis]
        (first, last), (top, bottom) = before[2 * axis :][:2], behind[2 * axis :][:2]
        reach = (kernel - 1) * dilation
        if top and stride + first <= reach:
            raise NotRewritten(f"{name} pads with zeros what reads over the edge of the map", remedy)
        if bottom and last < reach:
            sides = size()
            if sides is None or len(sides) != 3:
                raise NotRewritten(
                    f"{name} pads what it gives, and the size of the map that it reads is not known",
                    f"{remedy}, or give example=...",
                )
            places = (sides[1 + axis] + first + last - reach - 1) // stride + 1
            if places * stride - first < sides[1 + axis]:
                raise NotRewritten(f"{name} pads with zeros what reads over the edge of the map", remedy)
