"""LiftDimensions: networks on signals [N, C, L] become networks on maps of one row, [N, C, 1, L]."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.fx.node import Node

from fxsnn.graph import Graph, in_front_of_layers, keeps_shape, value_sizes
from fxsnn.layers import FixedSize, Lift, Lower, norm_like
from fxsnn.rewriting import Pass, concatenated, facts, put_concatenations, put_movements


class LiftDimensions(Pass):
    """Conv1d → Conv2d with a kernel of one row; transposed ones, poolings and BatchNorm1d on signals likewise.

    Behind the images stands `Lift`, [N, C, L] to [N, C, 1, L], and in front of what reads signals in the tail `Lower`,
    the way back: the tail is left as it is. A flatten reads the same numbers of either. What has no equal with two
    dimensions stays in the body as well, with `Lower` in front of it, for `CheckConvRelu` to speak about.

    Examples:
        >>> import torch, fxsnn
        >>> from torch import nn
        >>> graph = fxsnn.capture(nn.Sequential(nn.Conv1d(2, 4, 5, padding=2), nn.ReLU(), nn.AdaptiveAvgPool1d(1)))
        >>> print(LiftDimensions()(graph).after.text(hashes=False))
        name   calls                                                            reads  tensors
        -----  ---------------------------------------------------------------  -----  -------
        input  placeholder
        lift   Lift()                                                           input
        0      Conv2d(2, 4, kernel_size=(1, 5), stride=(1, 1), padding=(0, 2))  lift
        1      ReLU()                                                           0
        lower  Lower()                                                          1
        2      AdaptiveAvgPool1d(output_size=1)                                 lower
    """

    needs = facts("canonical")
    gives = facts("two-dimensional")
    preserves = True

    def rewrite(self, graph: Graph) -> None:
        """Edit `graph` in place."""
        if not graph.nodes(*_EQUALS):
            return
        whole = graph.copy()  # with its tail: what is its body shows then
        nodes = dict(zip(whole.nodes(), graph.nodes(), strict=True))
        signals = _of_rank_three(graph)
        _apply(whole, _planned(whole, whole.nodes(), {node for node in nodes if nodes[node] in signals}))
        inner = in_front_of_layers(whole.module)
        put_concatenations(whole, inner)
        put_movements(whole, inner, dict)
        whole.tidy()
        _apply(graph, _planned(graph, [nodes[node] for node in whole.body() if node in nodes], signals))


def _of_rank_three(graph: Graph) -> set[Node]:
    """What is computed that has a channel and a length, with the images of the graph or others that it takes."""
    example = None if graph.image_size is not None else graph.example_input()
    sizes = value_sizes(graph, None if example is None else tuple(example.shape[1:]))
    return {node for node, size in sizes.items() if len(size) == _SIGNAL and node.op != "get_attr"}


_SIGNAL = 2
"""Dimensions of a signal, without the batch."""


@dataclass(frozen=True)
class _Plan:
    """What is to be done to a graph.

    Attributes:
        layers: calls of layers that get their equals.
        up: readers, and what they are to read as maps.
        down: readers, and the maps that they are to read as signals.
    """

    layers: list[Node] = field(default_factory=list)
    up: list[tuple[Node, Node]] = field(default_factory=list)
    down: list[tuple[Node, Node]] = field(default_factory=list)


def _planned(graph: Graph, body: Collection[Node], ranked: Collection[Node]) -> _Plan:
    """What is to be done, where only nodes of the body may change; `ranked` are known to be of a signal's rank."""
    plan, signals, maps, inside = _Plan(), _signals(graph, ranked), set[Node](), set(body)
    for node in graph:
        reads = node.all_input_nodes
        becomes_map = node in inside and (graph.is_a(node, *_EQUALS) or _is_map_of(graph, node, signals, ranked, maps))
        if becomes_map:
            maps.add(node)
            plan.up.extend((node, source) for source in reads if source not in maps)
        elif not graph.is_a(node, nn.Flatten) or not _joins_all(graph[node]):
            plan.down.extend((node, source) for source in reads if source in maps)
        if becomes_map and graph.is_a(node, *_EQUALS, nn.BatchNorm1d):
            plan.layers.append(node)
    return plan


def _is_map_of(
    graph: Graph, node: Node, signals: Collection[Node], ranked: Collection[Node], maps: Collection[Node]
) -> bool:
    """Whether a call keeps the shape of maps, or of signals that are made of maps or that a layer is to read."""
    reads = node.all_input_nodes
    if not reads or graph.is_a(node, FixedSize) or not _keeps_form(graph, node):  # the images are signals
        return False
    if all(source in maps for source in reads) or (len(reads) == 1 and node in signals):
        return True
    wanted = node in signals or not graph.ancestors(node).isdisjoint(maps)
    return wanted and all(source in maps or source in ranked for source in reads)


def _keeps_form(graph: Graph, node: Node) -> bool:
    """Whether a call does the same to signals and to maps of one row, each time in their form."""
    return _joins_channels(node) or keeps_shape(node, graph.module)


def _joins_channels(node: Node) -> bool:
    """Whether a call puts channels behind one another, which is the same of signals and of maps."""
    found = concatenated(node)
    return found is not None and bool(found[1] == 1)


def _signals(graph: Graph, ranked: Collection[Node]) -> set[Node]:
    """What layers read as signals, and what that is made of without another shape."""
    found = set[Node]()
    for node in reversed(graph.nodes()):
        reads = node.all_input_nodes
        alike = len(reads) == 1 or all(source in ranked for source in reads)
        if graph.is_a(node, *_EQUALS) or (node in found and alike and _keeps_form(graph, node)):
            found.update(reads)
    return found


def _joins_all(flatten: Any) -> bool:
    return (flatten.start_dim, flatten.end_dim) == (1, -1)


def _apply(graph: Graph, plan: _Plan) -> None:
    for target in dict.fromkeys(str(node.target) for node in plan.layers):
        module, calls = _equal(graph[target]), graph.calls(target)
        if all(node in plan.layers for node in calls):
            graph.module.add_submodule(target, module)  # a layer that is called twice stays one, which is refused later
        else:
            for node in calls:
                if node in plan.layers:
                    graph.replace(node, module)
    for name, kind, pairs in (("lift", Lift, plan.up), ("lower", Lower, plan.down)):
        for source in dict.fromkeys(source for _, source in pairs):
            graph.insert_after(source, name, kind().eval(), [reader for reader, read in pairs if read is source])


def _equal(layer: nn.Module) -> nn.Module:
    """The layer with two dimensions that does the same to maps of one row."""
    if isinstance(layer, nn.BatchNorm1d):
        return norm_like(nn.BatchNorm2d, layer)
    build = next(build for kind, build in _EQUALS.items() if isinstance(layer, kind))
    return build(layer).train(layer.training)


def _convolution(conv: nn.Conv1d | nn.ConvTranspose1d) -> nn.Module:
    given: Any = conv  # torch types kernel_size and its like as longer tuples than they are
    transposed = isinstance(conv, nn.ConvTranspose1d)
    kind: Any = nn.ConvTranspose2d if transposed else nn.Conv2d
    new = kind(
        given.in_channels,
        given.out_channels,
        (1, *given.kernel_size),
        (1, *given.stride),
        given.padding if isinstance(given.padding, str) else (0, *given.padding),
        dilation=(1, *given.dilation),
        groups=given.groups,
        bias=given.bias is not None,
        padding_mode=given.padding_mode,
        device="meta",
        **({"output_padding": (0, *given.output_padding)} if transposed else {}),
    )
    new.weight = nn.Parameter(conv.weight.detach().unsqueeze(2), conv.weight.requires_grad)
    new.bias = conv.bias
    return new


def _average(pool: nn.AvgPool1d) -> nn.Module:
    given: Any = pool
    (kernel,), (stride,), (padding,) = given.kernel_size, given.stride, given.padding
    return nn.AvgPool2d((1, kernel), (1, stride), (0, padding), pool.ceil_mode, pool.count_include_pad)


def _maximum(pool: nn.MaxPool1d) -> nn.Module:
    sizes = (
        (value if isinstance(value, int) else value[0]) for value in (pool.kernel_size, pool.stride, pool.dilation)
    )
    kernel, stride, dilation = sizes
    padding = pool.padding if isinstance(pool.padding, int) else pool.padding[0]
    options = (pool.return_indices, pool.ceil_mode)
    return nn.MaxPool2d((1, kernel), (1, stride), (0, padding), (1, dilation), *options)


def _adaptive_average(pool: nn.AdaptiveAvgPool1d) -> nn.Module:
    size = pool.output_size
    return nn.AdaptiveAvgPool2d((1, size if isinstance(size, int) else size[0]))


def _across(kind: Callable[..., nn.Module]) -> Callable[[Any], nn.Module]:
    """Makes of a padding of signals one of maps of one row."""
    return lambda pad: kind((*pad.padding, 0, 0))


def _padding(pad: nn.ZeroPad1d) -> nn.Module:
    return nn.ZeroPad2d((*pad.padding, 0, 0))


_EQUALS: Mapping[type[nn.Module], Callable[[Any], nn.Module]] = {
    nn.Conv1d: _convolution,
    nn.ConvTranspose1d: _convolution,
    nn.AvgPool1d: _average,
    nn.AdaptiveAvgPool1d: _adaptive_average,
    nn.MaxPool1d: _maximum,
    nn.ZeroPad1d: _padding,
    nn.ReflectionPad1d: _across(nn.ReflectionPad2d),
    nn.ReplicationPad1d: _across(nn.ReplicationPad2d),
    nn.CircularPad1d: _across(nn.CircularPad2d),
}
"""Layers that read signals, and nothing else."""
