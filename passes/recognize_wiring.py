"""RecognizeWiring: concatenation, and whatever else only puts numbers elsewhere, however it is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from math import prod
from typing import Any

import torch
from torch import nn
from torch.fx.node import Node

from fxsnn.graph import Graph, in_front_of_layers, keeps_shape, value_sizes
from fxsnn.layers import Add, Channels, Concat, FlattenMaps, Wiring, conv_like
from fxsnn.rewriting import (
    Pass,
    channels_of,
    facts,
    fix_size,
    put_concatenations,
    put_layer,
    put_movements,
    put_sum,
)

_PADS: Mapping[str, Callable[..., nn.Module]] = {
    "reflect": nn.ReflectionPad2d,
    "replicate": nn.ReplicationPad2d,
    "circular": nn.CircularPad2d,
}
"""What pads as a convolution does by itself, by its `padding_mode`."""


class RecognizeWiring(Pass):
    """`torch.cat` of channels or features becomes `Concat`; calls that only put numbers elsewhere, one layer each time.

    These are `Channels` (slices, `chunk`, `split`, channel shuffles), `Repeat` (upsampling to the nearest neighbour),
    `PixelShuffle`, `Places` and `Spread` (every second row, crops), `Turn` (flips, transposes). What several calls do
    together is one layer, or none where all numbers come back to their places.

    So does the padding of a convolution that reflects, repeats or goes round, where the size of images is known.

    A flatten of maps that such a layer reads becomes `FlattenMaps`, where the size of images is known; the graph then
    takes images of that size only.

    Examples:
        >>> import torch, fxsnn
        >>> from torch import nn
        >>> class Net(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.first, self.second = nn.Conv2d(2, 4, 3), nn.Conv2d(2, 4, 3)
        ...         self.relu, self.last = nn.ReLU(), nn.Linear(2, 2)
        ...
        ...     def forward(self, x):
        ...         left, right = self.relu(self.first(x)).chunk(2, 1)
        ...         return self.last(torch.cat([left, self.relu(self.second(right))[:, :2]], 1).mean((2, 3)))
    """

    needs = facts("canonical")
    preserves = True

    def rewrite(self, graph: Graph) -> None:
        """Edit `graph` in place."""
        inner = in_front_of_layers(graph.module)
        put_concatenations(graph, inner)
        sizes = cache(lambda: value_sizes(graph))
        for node in graph.nodes(nn.Conv2d):
            if node in inner:
                inner = inner | _pad_apart(graph, node, sizes)
        of_any_size = put_movements(graph, inner, sizes)
        for node in graph.nodes(nn.Flatten):
            of_any_size = _know_places(graph, node, sizes) and of_any_size
        if not of_any_size:
            fix_size(graph)
        for node in graph.nodes(Add):
            read, add = graph.inputs(node), graph[node]
            if len(set(read)) < len(read):  # now that nothing is left between them
                assert isinstance(add, Add)
                put_sum(graph, node, zip(read, add.factor, strict=True), add.shift)
        for node in graph.nodes(Concat):
            _read_once(graph, node)


def _pad_apart(graph: Graph, node: Node, sizes: Callable[[], Mapping[Node, tuple[int, ...]]]) -> set[Node]:
    """Let a call in front of a convolution pad by numbers of the map; the call, if there is one."""
    layer: Any = graph[node]
    (source,), sides = node.all_input_nodes, layer._reversed_padding_repeated_twice
    if layer.padding_mode not in _PADS or (any(sides) and not sizes().get(source)):
        return set()
    new = conv_like(nn.Conv2d, layer, (0, 0))
    new.padding_mode = "zeros"
    graph.replace(node, new)
    if not any(sides):
        return set()
    pads = _PADS[layer.padding_mode](tuple(sides)).eval()
    before = graph.call_before(node, f"{graph.name(node)}_padding", pads, [source])
    node.replace_input_with(source, before)
    return {before}


def _know_places(graph: Graph, node: Node, sizes: Callable[[], Mapping[Node, tuple[int, ...]]]) -> bool:
    """Let wiring that reads a flatten know of which channels its features are; whether that is so of any size."""
    waiting = list(node.users)
    while waiting and not graph.is_a(waiting[0], Wiring):
        one = waiting.pop(0)
        waiting += one.users if keeps_shape(one, graph.module) else ()
    if not waiting or graph.is_a(node, Wiring) or not (size := sizes().get(node.all_input_nodes[0])):
        return True
    graph.replace(node, FlattenMaps(prod(size[1:])).eval())
    return False


def _read_once(graph: Graph, node: Node) -> None:
    """Let a concatenation read each value once, and repeat its channels behind it."""
    read = graph.inputs(node)
    once = list(dict.fromkeys(read))
    sizes = {one: channels_of(graph, one) for one in once}
    if len(once) == len(read) or None in sizes.values():
        return
    first, count = dict[Node, int](), 0
    for one in once:
        first[one], count = count, count + int(sizes[one] or 0)
    index = [first[one] + channel for one in read for channel in range(int(sizes[one] or 0))]
    node.args = tuple(once)
    channels = Channels(torch.tensor(index, device=graph.device)).eval()
    if len(once) == 1:  # one value, several times
        put_layer(graph, node, "channels", channels, once)
    else:
        graph.insert_after(node, f"{graph.name(node)}_channels", channels)
