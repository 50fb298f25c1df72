"""MoveAffine: scales and shifts of channels go into the layers beside them, where that changes nothing."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.fx.node import Node

from fxsnn.graph import Graph, Norm, Weighted
from fxsnn.layers import Affine, FixedSize, Lift, norm_with_affine_behind, with_affine_behind, with_affine_in_front
from fxsnn.rewriting import (
    Pass,
    affine_of,
    can_give,
    facts,
    is_on_images,
    pools_alike,
    pools_maxima_alike,
    swap_calls,
    way_forward,
)

_UNEVEN = 2
"""Channels whose scales differ by more would lose more than a bit of the input to others."""
_FAR_OFF = 4
"""Normalised numbers lie within about so many deviations of zero."""


class MoveAffine(Pass):
    """Each `Affine` of the body becomes a part of a layer, or of the tail, or stands directly behind the images.

    * Behind a convolution or fully connected layer it goes into that; behind its batch norm, into the norm.
    * Behind a ReLU, poolings between, the magnitude of its scale goes into the layer in front of that.
    * Behind an activation, a pooling or the images all else of it goes into the layer with weights that reads it,
      through average poolings and flattening: into a fully connected one always, into a convolution where there is no
      shift or no padding with zeros. A shift cannot pass a padded pooling either.
    * What only poolings separate from the tail goes behind them, as it is.
    * On the images, what cannot go into the first layer is done when they are rounded to the integer input. So is what
      brings channels of unlike ranges into one, or numbers far from zero near it: the integers have one step for all
      channels, and would have few of them left for what such a layer reads.

    All else stays, for `CheckConvRelu` to speak about.

    Examples:
        >>> import torch, fxsnn
        >>> from torch import nn
        >>> from fxsnn.passes import RecognizeAffine
        >>> net = nn.Sequential(
        ...     nn.Conv2d(1, 4, 3), nn.ReLU(), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.BatchNorm2d(4),
        ...     nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16, 2),
        ... ).eval()
        >>> step = MoveAffine()(RecognizeAffine()(fxsnn.capture(net)).after)
        >>> [step.after.name(node) for node in step.after.nodes(nn.Module)]
        ['0', '1', '3', '4', '6', '5', '7', '8']
    """

    needs = facts("canonical")
    preserves = True

    def rewrite(self, graph: Graph) -> None:
        """Edit `graph` in place."""
        for node in graph.body(Affine):
            while graph.is_a(before := node.all_input_nodes[0], FixedSize, Lift) and is_on_images(graph, node):
                swap_calls(graph, before, node)
        for node in graph.body(Affine):
            _join_next(graph, node)
        for node in reversed(graph.body()):
            affine = affine_of(graph, node)
            if affine is None or (graph.is_a(node, Affine) and _into_layer_before(graph, node, affine)):
                continue
            if is_on_images(graph, node) and (
                _needs_own_range(affine) or _is_read_by_first_of_two(graph, node, affine)
            ):
                continue
            _forward(graph, node, _without_magnitude(graph, node, affine) if graph.is_a(node, Affine) else affine)
        _pool_before_tail(graph)


def _needs_own_range(affine: Affine) -> bool:
    """Whether integers of the images as they are would be coarse beside those of what it makes of them."""
    if affine.scale.is_meta:
        return False
    sizes = affine.scale.abs()
    sizes = sizes[sizes > 0]
    uneven = len(sizes) > 0 and bool(sizes.max() > _UNEVEN * sizes.min())
    return uneven or bool((affine.shift.abs() > _FAR_OFF).any())


def _is_read_by_first_of_two(graph: Graph, node: Node, affine: Affine) -> bool:
    """Whether the layer that could take it in will be one with a layer behind it, which it could not be with a bias."""
    into = way_forward(graph, node, affine, set(graph.body())).into
    behind = None if into is None else graph.sole_user(into)
    while graph.is_a(behind, *Norm) and behind is not None:
        behind = graph.sole_user(behind)
    return graph.is_a(behind, *Weighted)


def _join_next(graph: Graph, node: Node) -> None:
    """Make one of it and the next one, where only what it can pass stands between."""
    affine: Any = graph[node]
    behind = way_forward(graph, node, affine, set(graph.body())).blocked_by
    other: Any = graph[behind] if behind is not None and graph.is_a(behind, Affine) else None
    if behind is None or other is None or len(behind.users) == 0:
        return
    if other.channels % affine.channels == 0:
        graph.replace(behind, affine.per_input(other.channels).then(other).eval())
        graph.bypass(node)


def _into_layer_before(graph: Graph, node: Node, affine: Affine) -> bool:
    """Put it into the layer or batch norm that gives what it reads, if there is one that only it reads."""
    before, behind = node.all_input_nodes[0], node
    pools = pools_alike, pools_maxima_alike
    while any(alike(graph, before, affine) for alike in pools) and graph.sole_user(before) is behind:
        before, behind = before.all_input_nodes[0], before
    if not can_give(graph, before, affine) or graph.sole_user(before) is not behind:
        return False
    _put_behind(graph, before, affine)
    graph.bypass(node)
    return True


def _put_behind(graph: Graph, node: Node, affine: Affine) -> None:
    """Let a layer or batch norm do it to what it gives."""
    layer: Any = graph[node]
    norm = isinstance(layer, Norm)
    graph.replace(node, norm_with_affine_behind(layer, affine) if norm else with_affine_behind(layer, affine))


def _without_magnitude(graph: Graph, node: Node, affine: Affine) -> Affine:
    """Put the magnitude of its scale into the layer in front of a ReLU before it; what is left of it.

    There it costs nothing: each output channel has its own weight step. In the layer behind, channels of unlike scales
    would share one.
    """
    before = node.all_input_nodes[0]
    while graph.is_a(before, nn.AvgPool2d, nn.AdaptiveAvgPool2d) and graph.sole_user(before) is not None:
        before = before.all_input_nodes[0]
    if not graph.is_a(before, nn.ReLU) or graph.sole_user(before) is None:
        return affine
    layer, zero = before.all_input_nodes[0], torch.zeros_like(affine.shift)
    size = torch.where(affine.scale == 0, 1.0, affine.scale.abs())
    magnitude, rest = (
        Affine(size, zero, shifts=False),
        Affine(affine.scale / size, affine.shift, shifts=affine.shifts).eval(),
    )
    if not can_give(graph, layer, magnitude) or graph.sole_user(layer) is not before:
        return affine
    _put_behind(graph, layer, magnitude)
    graph.replace(node, rest)
    return rest


def _forward(graph: Graph, node: Node, affine: Affine) -> None:
    """Put it into the layer that reads it, or behind the last pooling."""
    body = set(graph.body())
    way = way_forward(graph, node, affine, body)
    if way.into is not None and graph.is_a(node, Affine):
        layer: Any = graph[way.into]
        graph.replace(way.into, with_affine_in_front(layer, affine))
        graph.bypass(node)
    elif way.reaches_tail:
        for behind in way.past:
            swap_calls(graph, node, behind)


def _pool_before_tail(graph: Graph) -> None:
    """Let an average pooling, which can spike, stand in front of the scales and shifts with which the tail begins."""
    while body := graph.body():
        between: list[Node] = []
        behind = graph.sole_user(body[-1])
        while behind is not None and affine_of(graph, behind) is not None:
            between.append(behind)
            behind = graph.sole_user(behind)
        if behind is None or not between or not all(_pools_alike(graph, behind, one) for one in between):
            return
        for one in reversed(between):
            swap_calls(graph, one, behind)


def _pools_alike(graph: Graph, node: Node, before: Node) -> bool:
    affine = affine_of(graph, before)
    return affine is not None and pools_alike(graph, node, affine)
