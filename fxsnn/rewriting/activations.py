"""Which activation a function of one number is: it is asked for its values, not for its spelling."""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.fx.node import Node

from fxsnn.graph import Activation, Graph, in_front_of_layers
from fxsnn.layers import Bound, BoundedReLU
from fxsnn.rewriting.elementwise import Stretch, function_of, function_of_channels, is_property, rank_of, stretches
from fxsnn.rewriting.shifted_activations import shifted_activation_of

_OCTAVES, _STEPS = 40, 32
"""Values are asked for from 2^-40 to 2^40, so many of each doubling."""
_FLAT = 8
"""A function that has an end has it for so many doublings."""
_FINE = 10007
"""So many values are asked for from half the upper end below zero to half of it beyond."""
_MOST_LEVELS = 1024
_ROUNDING = 1e-12, 8 * torch.finfo(torch.float64).eps
"""What a value may be off: relative to the upper end, and to the number of which it is the value."""
_NEAR = 1.0
"""SiLU, GELU, ELU, Mish, Softplus and Hardswish are at most so far from `max(x, 0)`."""
_BESIDE = 1e-9
"""Values are asked for at this relative distance on both sides of a step; on the step itself either may be right."""


_Line = tuple[float | Tensor, float | Tensor]
_NOTHING: _Line = (1.0, 0.0)

_AVERAGES = (nn.AvgPool2d, nn.AvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool1d)
_KEEP_THE_SIGN = (*_AVERAGES, nn.MaxPool2d, nn.MaxPool1d, nn.Flatten)


@dataclass(frozen=True, eq=False)
class FoundActivation:
    """Calls that are an activation together.

    Attributes:
        start: what they read.
        end: the last of them.
        module: the same as one module.
        front: what that reads is multiplied with this and shifted by that first: numbers, or one for each channel.
        behind: the same of what it gives.
    """

    start: Node
    end: Node
    module: nn.Module
    front: _Line = _NOTHING
    behind: _Line = _NOTHING

    @property
    def is_alone(self) -> bool:
        """Whether nothing is scaled or shifted beside it."""
        return self.front is _NOTHING and self.behind is _NOTHING


def find_activations(graph: Graph) -> list[FoundActivation]:
    """All that are written as something else than `nn.ReLU` or one of our layers, the longest ones first."""
    found: list[FoundActivation] = []
    for stretch in stretches(graph):
        taken = set[Node]()
        for start, nodes in stretch.within():
            if not taken.isdisjoint(nodes) or _is_plain(graph, stretch, nodes):
                continue
            one = _found(graph, stretch, start, nodes, {other.end for other in found if other.is_alone})
            if one is not None:
                taken.update(nodes)
                found.append(one)
    inner = in_front_of_layers(graph.module)  # all else is for the tail to compute
    return [one for one in found if one.is_alone or one.end in inner]


def _found(
    graph: Graph, stretch: Stretch, start: Node, nodes: list[Node], activations: Collection[Node]
) -> FoundActivation | None:
    """What these calls are together; `activations`: calls that are found to be such already."""
    function = function_of(graph, start, nodes)
    if is_nowhere_negative(graph, start, activations):
        function = partial(_behind_relu, function)
    if (module := activation_of(function)) is not None:
        return FoundActivation(start, nodes[-1], module.eval())
    # With what only scales and shifts it, it is no other one.
    shifted = None if stretch.is_scaled(start, nodes) else shifted_activation_of(function)
    if shifted is not None:
        front, behind = (shifted.slope, shifted.shift), (shifted.scale, shifted.offset)
        return FoundActivation(start, nodes[-1], shifted.module, front, behind)
    bounds = _bounds_of_channels(graph, start, nodes)
    if bounds is None:
        return None
    module, tops = bounds
    return FoundActivation(start, nodes[-1], module, (1 / tops, 0.0), (tops, 0.0))


def _behind_relu(function: Callable[[Tensor], Tensor | None], x: Tensor) -> Tensor | None:
    return function(x.clamp_min(0))


def is_nowhere_negative(graph: Graph, node: Node, activations: Collection[Node] = ()) -> bool:
    """Whether a node gives an activation, one of `activations`, or averages or maxima of such, in any shape."""
    while graph.is_a(node, *_KEEP_THE_SIGN):
        node = node.all_input_nodes[0]
    return graph.is_a(node, nn.ReLU, BoundedReLU) or node in activations


def _bounds_of_channels(graph: Graph, start: Node, nodes: list[Node]) -> tuple[BoundedReLU, Tensor] | None:
    """The activation that calls are where each channel has an upper end of its own, for an end of 1; and the ends."""
    function = function_of_channels(graph, start, nodes)
    x = _grid()[-1:, None]
    for _ in range(2):  # the nearer it is, the less is rounded
        tops = function(x)
        if tops is None or not bool((torch.isfinite(tops) & (tops > 0)).all()):
            return None
        x = 4 * tops
    tops = x[0] / 4

    def first(x: Tensor) -> Tensor | None:
        return None if (y := function(x[:, None] * tops)) is None else y[:, 0] / tops[0]

    module = activation_of(first)
    if not isinstance(module, BoundedReLU):
        return None
    x = torch.cat((_grid()[:: _STEPS // 8], torch.linspace(-0.5, 1.5, _FINE // 8, dtype=torch.float64)))
    if (levels := module.bound.levels) is not None:
        place = x * levels + 0.5
        x = x[(place - place.round()).abs() > _BESIDE * levels]
    y = function(x[:, None] * tops)
    alike = y is not None and _agree(x[:, None], y / tops, module(x)[:, None], 1.0)
    return (module.eval(), tops.view(-1, *[1] * (rank_of(graph, nodes[-1]) - 2))) if alike else None


def find_nearly_rectifiers(graph: Graph, among: Collection[Node] | None = None) -> list[FoundActivation]:
    """What is no activation that spikes can express, but differs from `max(x, 0)` by no more than 1: the shortest ones.

    Args:
        graph: a canonical graph.
        among: only those of which one of these nodes is part; `None`: all.
    """
    found = []
    for stretch in stretches(graph):
        if among is not None and not set(among).intersection(stretch.nodes):
            continue
        known, taken = set[Node](), set[Node]()
        for start, nodes in reversed(list(stretch.within())):
            # What is known stays, with what adds to it or scales it; x * relu6(x + 3) is no such thing.
            if not taken.isdisjoint(nodes) or all(node in known or stretch.is_linear(node) for node in nodes):
                continue
            function = function_of(graph, start, nodes)
            if _is_plain(graph, stretch, nodes) or _is_one(function):
                known.update(nodes)
            elif _nearly_rectifies(function):
                taken.update(nodes)
                if among is None or not set(among).isdisjoint(nodes):
                    found.append(FoundActivation(start, nodes[-1], nn.ReLU().eval()))
    return found


def put_activations(graph: Graph, found: Collection[FoundActivation]) -> bool:
    """Let modules take the place of the calls that they are, in front of the last layers with weights.

    Returns:
        Whether there was any there.
    """
    if not found:
        return False
    whole = graph.copy()  # with all of them: what is its body shows then
    nodes = dict(zip(graph.nodes(), whole.nodes(), strict=True))
    for one in found:
        _put(whole, one, nodes[one.start], nodes[one.end])
    body = set(whole.body())
    spiking = [one for one in found if nodes[one.end] in body]
    for one in spiking:
        _put(graph, one, one.start, one.end)
    return bool(spiking)


def _put(graph: Graph, one: FoundActivation, start: Node, end: Node) -> None:
    end.args, end.kwargs = (start,), {}  # by itself `replace` would keep the first input, which may be a constant
    graph.replace(end, one.module)
    readers = list(end.users)
    _calculate(graph, start, one.front, [end])
    _calculate(graph, end, one.behind, readers)


def _calculate(graph: Graph, node: Node, line: _Line, readers: Collection[Node]) -> None:
    """Let readers read what a node gives times a factor, and a shift, written as anybody would write it."""
    for function, number, nothing in zip((operator.mul, operator.add), line, _NOTHING, strict=True):
        if not isinstance(number, Tensor) and number == nothing:
            continue
        factor = _constant(graph, node, number) if isinstance(number, Tensor) else number
        name = f"{graph.name(node)}_{'scaled' if function is operator.mul else 'shifted'}"
        with graph.module.graph.inserting_after(node):
            new = graph.module.graph.create_node("call_function", function, (node, factor), name=name)
        new.meta = dict(node.meta)
        node.replace_all_uses_with(new, delete_user_cb=lambda user: user in readers)
        node = new


def _constant(graph: Graph, node: Node, value: Tensor) -> Node:
    """A constant of the network, in front of a node."""
    name = graph.unused_name("bounds")
    graph.module.register_buffer(name, value.to(graph.device, graph.dtype))
    with graph.module.graph.inserting_before(node):
        return graph.module.graph.get_attr(name)


def unknown_activations(graph: Graph) -> Iterator[list[Node]]:
    """Calls that are no known activation together, though they do more than to add and multiply."""
    for stretch in stretches(graph):
        nodes = [node for node in stretch.nodes if not graph.is_a(node, *Activation) and not is_property(node)]
        if not all(map(stretch.is_linear, nodes)):
            yield nodes


def _is_plain(graph: Graph, stretch: Stretch, nodes: Collection[Node]) -> bool:
    """Whether it is known already, or certainly none."""
    return (len(nodes) == 1 and graph.is_a(next(iter(nodes)), *Activation)) or all(map(stretch.is_linear, nodes))


def activation_of(function: Callable[[Tensor], Tensor | None]) -> nn.ReLU | BoundedReLU | None:
    """The activation that a function is, to rounding: `max(x, 0)`, `clamp(x, 0, c)`, or that with levels; else `None`.

    Args:
        function: of float64 [n], of the same shape and type; `None`: it cannot be run.

    >>> activation_of(lambda x: (x / 2).clamp(0, 1) * 2)
    BoundedReLU(bound=2)
    >>> activation_of(lambda x: (x * 4 + 0.5).floor().clamp(0, 4) / 4)
    BoundedReLU(bound=1, levels=4)
    >>> activation_of(torch.sigmoid)
    """
    x = _grid()
    y = function(x)
    if y is None or not bool(torch.isfinite(y).all()):
        return None
    if _agree(x, y, x.clamp_min(0), 0.0):
        return nn.ReLU()
    top = _upper_end(x, y)
    if top is None:
        return None
    x = torch.cat((x, torch.linspace(-0.5, 1.5, _FINE, dtype=torch.float64) * top))
    y = function(x)
    if y is None or not _agree(x.clamp_max(0), y.where(x <= 0, 0), torch.zeros_like(y), top):
        return None
    if _agree(x, y, x.clamp(0, top), top):
        return BoundedReLU(Bound(top))
    levels = len((y / top / _BESIDE).round().unique()) - 1
    if not 1 <= levels <= _MOST_LEVELS:
        return None
    rounded = BoundedReLU(Bound(top, levels))
    steps = (torch.arange(levels, dtype=torch.float64) + 0.5) * (top / levels)
    x = torch.cat((x, steps * (1 - _BESIDE), steps * (1 + _BESIDE)))
    y = function(x)
    place = x / top * levels + 0.5
    sure = (place - place.round()).abs() > _BESIDE / 10
    return rounded if y is not None and _agree(x[sure], y[sure], rounded(x[sure]), top) else None


def _is_one(function: Callable[[Tensor], Tensor | None]) -> bool:
    return activation_of(function) is not None or shifted_activation_of(function) is not None


def _nearly_rectifies(function: Callable[[Tensor], Tensor | None]) -> bool:
    x = _grid()
    y = function(x)
    return y is not None and bool(((y - x.clamp_min(0)).abs() <= _NEAR + _ROUNDING[1] * x.abs()).all())


def _grid() -> Tensor:
    positive = 2.0 ** (torch.arange(-_OCTAVES * _STEPS, _OCTAVES * _STEPS + 1, dtype=torch.float64) / _STEPS)
    return torch.cat((-positive.flip(0), positive.new_zeros(1), positive))


def _agree(x: Tensor, y: Tensor, expected: Tensor, top: float) -> bool:
    of_end, of_number = _ROUNDING
    return bool(((y - expected).abs() <= of_end * top + of_number * x.abs()).all())


def _upper_end(x: Tensor, y: Tensor) -> float | None:
    """The value that a function has from some number on, and for long; `None`: none that is positive."""
    x, y = x[-2 * _OCTAVES * _STEPS - 1 :: _STEPS], y[-2 * _OCTAVES * _STEPS - 1 :: _STEPS]
    of_end, of_number = _ROUNDING
    same = (y - y[:, None]).abs() <= of_end * y[:, None] + of_number * x
    before = torch.ones_like(same).tril(-1)
    ends = ((same | before).all(1) & (y > 0))[:-_FLAT]
    return float(y[:-_FLAT][ends][0]) if bool(ends.any()) else None
