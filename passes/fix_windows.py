"""FixWindows: averages over a whole map, or over shares of it, become poolings with a fixed window."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from torch import nn
from torch.fx.node import Node

from fxsnn.graph import Graph, value_sizes
from fxsnn.layers import Lift, Lower, Select, pair
from fxsnn.rewriting import (
    FixedWindow,
    NotRewritten,
    Pass,
    counts_unevenly,
    facts,
    fix_size,
    fixed_window,
    has_open_window,
    is_squeeze,
    join_means,
    maps_of,
    spread_places,
    squeezed_map,
)

_MAP = 3
"""Dimensions of what is pooled, without the batch."""


class FixWindows(Pass):
    """Adaptive average poolings and means over height and width become `AvgPool2d`, from the known size of images.

    Where all windows of an adaptive pooling are alike, a fixed one does the same; one that changes nothing disappears.
    A mean that drops dimensions has a flatten behind it, and squeezes of a map of one place are one.
    `ceil_mode=True` is left out where it makes no difference. Where padding is not counted, places of the smaller
    windows at the edges are read more often (`Select`), by windows of one size. The graph then takes images of that
    size only (`FixedSize`). The tail is left alone: a global pooling in front of the final fully connected layer stays
    as it is.

    Examples:
        >>> import torch, fxsnn
        >>> from torch import nn
        >>> layers = nn.Conv2d(1, 2, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Conv2d(2, 2, 2), nn.ReLU()
        >>> graph = fxsnn.capture(nn.Sequential(*layers), torch.rand(1, 1, 10, 10))
        >>> print(FixWindows()(graph).after.text(hashes=False))
        name        calls                                                         reads       tensors
        ----------  ------------------------------------------------------------  ----------  -------
        input       placeholder
        fixed_size  FixedSize((1, 10, 10))                                        input
        0           Conv2d(1, 2, kernel_size=(3, 3), stride=(1, 1))               fixed_size
        1           ReLU()                                                        0
        2           AvgPool2d(kernel_size=(4, 4), stride=(4, 4), padding=(0, 0))  1
        3           Conv2d(2, 2, kernel_size=(2, 2), stride=(1, 1))               2
        4           ReLU()                                                        3
    """

    needs = facts("canonical", "two-dimensional")
    gives = facts("fixed-windows")
    preserves = True

    def rewrite(self, graph: Graph) -> None:
        """Edit `graph` in place."""
        body = graph.body()
        nodes, squeezes = [node for node in body if has_open_window(graph, node)], list(filter(is_squeeze, body))
        sizes = value_sizes(graph) if nodes or squeezes else {}
        for node in squeezes:
            if (maps := squeezed_map(graph, node, sizes)) is not None:
                graph.replace(node, nn.Flatten().eval())
                node.args = (maps,)
        nodes = join_means(graph, nodes, sizes)
        for node in nodes:
            try:
                window = fixed_window(graph, node, sizes)
            except NotRewritten:
                continue
            _fix(graph, node, window)
            fix_size(graph)
        uneven = [node for node in graph.body() if counts_unevenly(graph, node)]
        sizes = value_sizes(graph) if uneven else {}
        for node in uneven:
            with suppress(NotRewritten):
                _spread(graph, node, sizes.get(node.all_input_nodes[0], ()))


def _fix(graph: Graph, node: Node, window: FixedWindow) -> None:
    given: Any = graph[node] if graph.is_a(node, nn.AvgPool2d) else nn.AvgPool2d(1)
    pool = nn.AvgPool2d(
        window.kernel, window.stride, window.padding, False, given.count_include_pad, given.divisor_override
    )
    signals, maps = node.all_input_nodes[0], maps_of(graph, node)
    graph.replace(node, pool.eval())
    if maps is not signals:
        _between_signals(graph, node, maps, flat=window.flat)
    elif window.flat:
        graph.insert_after(node, "flatten", nn.Flatten().eval())
    elif (window.kernel, window.stride, window.padding) == ((1, 1), (1, 1), (0, 0)) and pool.divisor_override is None:
        graph.bypass(node)


def _spread(graph: Graph, node: Node, size: tuple[int, ...]) -> None:
    """Let windows of a pooling that differ in size be windows of one size on places that are read several times."""
    pool: Any = graph[node]
    if len(size) != _MAP:
        return
    options = zip(size[1:], *map(pair, (pool.kernel_size, pool.stride, pool.padding)), strict=True)
    (rows, height), (columns, width) = (spread_places(*axis) for axis in options)
    graph.replace(node, nn.AvgPool2d((height, width)).eval())
    graph.insert_after(node.all_input_nodes[0], f"{graph.name(node)}_places", Select(rows, columns).eval(), [node])
    fix_size(graph)


def _between_signals(graph: Graph, node: Node, maps: Node, *, flat: bool) -> None:
    """Let a pooling read maps instead of signals; what reads signals of it gets them."""
    node.args = (maps,)
    readers = list(node.users)
    if flat:
        graph.insert_after(node, "flatten", nn.Flatten().eval())
        return
    others = [reader for reader in readers if not graph.is_a(reader, Lift, nn.Flatten)]
    for reader in readers:
        if graph.is_a(reader, Lift):
            reader.replace_all_uses_with(node)
    if others:
        graph.insert_after(node, "lower", Lower().eval(), others)
