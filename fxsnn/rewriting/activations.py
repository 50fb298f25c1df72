"""Which activation a function of one number is: it is asked for its values, not for its spelling."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.fx.node import Node

from fxsnn.graph import Activation, Graph
from fxsnn.layers import Bound, BoundedReLU
from fxsnn.rewriting.elementwise import Stretch, function_of, is_property, stretches

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


@dataclass(frozen=True)
class FoundActivation:
    """Calls that are an activation together.

    Attributes:
        start: what they read.
        end: the last of them.
        module: the same as one module.
    """

    start: Node
    end: Node
    module: nn.Module


def find_activations(graph: Graph) -> list[FoundActivation]:
    """All that are written as something else than `nn.ReLU` or one of our layers, the longest ones first."""
    found = []
    for stretch in stretches(graph):
        taken = set[Node]()
        for start, nodes in stretch.within():
            if not taken.isdisjoint(nodes) or _is_plain(graph, stretch, nodes):
                continue
            module = activation_of(function_of(graph, start, nodes))
            if module is not None:
                taken.update(nodes)
                found.append(FoundActivation(start, nodes[-1], module.eval()))
    return found


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
            if _is_plain(graph, stretch, nodes) or activation_of(function) is not None:
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
        _put(whole, nodes[one.start], nodes[one.end], one.module)
    body = set(whole.body())
    spiking = [one for one in found if nodes[one.end] in body]
    for one in spiking:
        _put(graph, one.start, one.end, one.module)
    return bool(spiking)


def _put(graph: Graph, start: Node, end: Node, module: nn.Module) -> None:
    end.args, end.kwargs = (start,), {}  # by itself `replace` would keep the first input, which may be a constant
    graph.replace(end, module)


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
