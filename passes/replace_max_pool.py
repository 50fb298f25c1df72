"""ReplaceMaxPool: max pooling as neurons that can do it, exactly or nearly."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.fx.node import Node

from fxsnn.errors import OptionError
from fxsnn.graph import Activation, Graph, value_sizes
from fxsnn.layers import Add, AnyPool2d, Select, Tap, Taps, Wiring, pair
from fxsnn.options import is_one_of, shown
from fxsnn.rewriting import Pass, facts, fix_size, is_padded, pools_activations, pools_signed

MAX_POOL_WAYS = ("rectifiers", "average", "stride", "any")
"""What `ReplaceMaxPool` can put in the place of max pooling."""
_MAP = 3
"""Dimensions of what is pooled, without the batch."""


class ReplaceMaxPool(Pass):
    """Max pooling becomes something that integrate-and-fire neurons compute.

    Args:
        by: "rectifiers" keeps the function: `max(a, b) = a + ReLU(b - a)`, first down, then across the window, and
            neurons for the sum. Right in the limit of T; with few steps it overestimates, since what two spike trains
            differ by for a while counts.
            "any" keeps it, too, as long as there are no spikes: one neuron a window that spikes in each step in which
            any neuron of the window does (`AnyPool2d`). Its rate lies between the maximum of the rates and their sum,
            however long the network runs. It needs no sums, but neurons that are reset to zero whatever the network's
            reset is. What pools values with a sign stays as it is.
            "average" puts an average pooling in its place, "stride" takes the middle of each window: other functions,
            for networks that are trained afterwards.

    A ReLU behind the pooling moves in front of it, which changes nothing. What pools values with a sign gives such a
    value, which pairs of neurons can stand for; where it pads, the size of the maps must be known. Poolings that are
    not in front of layers with weights stay as they are: the tail may compute maxima.

    Raises:
        OptionError: there is no such way.

    Examples:
        >>> import torch, fxsnn
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(2, 2, 3), nn.ReLU())
        >>> graph = fxsnn.passes.Canonicalize()(fxsnn.capture(net.eval())).after
        >>> print(ReplaceMaxPool()(graph, torch.randn(1, 1, 8, 8)).after.text(hashes=False))
        name            calls                                            reads                               tensors
        --------------  -----------------------------------------------  ----------------------------------  -------
        input           placeholder
        0               Conv2d(1, 2, kernel_size=(3, 3), stride=(1, 1))  input
        1               ReLU()                                           0
        2_tap           Tap((0, 0) of 2x1, stride=(2, 1))                1
        2_tap_1         Tap((1, 0) of 2x1, stride=(2, 1))                1
        2_difference    Add(2 inputs, factors 1, -1)                     2_tap_1, 2_tap
        2_rectifier     ReLU()                                           2_difference
        2_tap_2         Tap((0, 0) of 1x2, stride=(1, 2))                2_tap
        2_tap_3         Tap((0, 0) of 1x2, stride=(1, 2))                2_rectifier
        2_tap_4         Tap((0, 1) of 1x2, stride=(1, 2))                2_tap
        2_tap_5         Tap((0, 1) of 1x2, stride=(1, 2))                2_rectifier
        2_difference_1  Add(4 inputs, factors 1, 1, -1, -1)              2_tap_4, 2_tap_5, 2_tap_2, 2_tap_3
        2_rectifier_1   ReLU()                                           2_difference_1
        2_sum           Add(3 inputs)                                    2_tap_2, 2_tap_3, 2_rectifier_1
        2               ReLU()                                           2_sum
        3               Conv2d(2, 2, kernel_size=(3, 3), stride=(1, 1))  2
        4               ReLU()                                           3
    """

    by: str = "rectifiers"

    needs = facts("canonical")
    gives = facts("no-max-pooling")

    def __post_init__(self) -> None:
        if not is_one_of(self.by, MAX_POOL_WAYS):
            raise OptionError(f"max_pool is {shown(self.by)}; allowed are {', '.join(map(repr, MAX_POOL_WAYS))}")
        object.__setattr__(self, "preserves", self.by in ("rectifiers", "any"))

    def rewrite(self, graph: Graph) -> None:
        """Edit `graph` in place."""
        poolings = graph.body(nn.MaxPool2d)
        nodes = [node for node in poolings if pools_activations(graph, node)]
        for node in nodes:
            _put_behind_activation(graph, node)
        replace: dict[str, Callable[[Graph, Node], None]]
        replace = {"rectifiers": _by_rectifiers, "any": _by_any, "average": _by_average, "stride": _by_stride}
        for node in poolings:
            if node in nodes:
                replace[self.by](graph, node)
            elif pools_signed(graph, node) and self.by != "any":  # no spike stands for what is negative
                (_of_signed if self.by == "rectifiers" else replace[self.by])(graph, node)


def _put_behind_activation(graph: Graph, node: Node) -> None:
    """Let a pooling read the activation that reads it: activations rise, so that the order does not matter."""
    behind, source = graph.sole_user(node), node.all_input_nodes[0]
    if behind is None or not graph.is_a(behind, *Activation) or graph.is_a(source, *Activation):
        return
    behind.replace_all_uses_with(node)
    behind.args = (source,)
    node.args = (behind,)
    behind.append(node)  # in the order of execution


def _windows(pool: Any) -> tuple[Taps, Taps]:
    kernel, stride, padding, dilation = (
        pair(value) for value in (pool.kernel_size, pool.stride or pool.kernel_size, pool.padding, pool.dilation)
    )
    down, across = (
        Taps(kernel[axis], stride[axis], padding[axis], dilation[axis], bool(pool.ceil_mode)) for axis in (0, 1)
    )
    return down, across


def _by_any(graph: Graph, node: Node) -> None:
    graph.replace(node, AnyPool2d(*_windows(graph[node])).eval())


def _by_average(graph: Graph, node: Node) -> None:
    pool: Any = graph[node]
    graph.replace(node, nn.AvgPool2d(pool.kernel_size, pool.stride, pool.padding, pool.ceil_mode).eval())


def _by_stride(graph: Graph, node: Node) -> None:
    down, across = _windows(graph[node])
    graph.replace(node, Tap(down, across, (down.kernel - 1) // 2, (across.kernel - 1) // 2).eval())


def _by_rectifiers(graph: Graph, node: Node) -> None:
    """The maximum of what is not negative: padding may count as zero."""
    terms = _maximum(graph, node, _along(_windows(graph[node])))
    if len(terms) == 1:
        node.replace_all_uses_with(terms[0])
        return
    total = _call(graph, node, "sum", _add([1] * len(terms)), terms)
    graph.replace(node, nn.ReLU().eval())
    node.args = (total,)


def _of_signed(graph: Graph, node: Node) -> None:
    """The maximum of what may be negative: where a window reaches beyond the map, it reads another place of its own."""
    windows, size = _windows(graph[node]), value_sizes(graph).get(node.all_input_nodes[0], ())
    if not is_padded(graph[node]):
        along = _along(windows)
    elif len(size) == _MAP:
        inside = [_places_inside(taps, side) for taps, side in zip(windows, size[1:], strict=True)]
        whole = [range(side) for side in size[1:]]
        along = [
            [Select(*((place, whole[1]) if axis == 0 else (range(len(inside[0][0])), place))) for place in places]
            for axis, places in enumerate(inside)
        ]
        fix_size(graph)
    else:
        return
    terms = _maximum(graph, node, along)
    graph.replace(node, _add([1] * len(terms)))
    node.args = tuple(terms)


def _along(windows: Sequence[Taps]) -> list[list[Wiring]]:
    """Every place of windows along each axis; none along one with windows of a single place."""
    return [_taps(taps, axis) if taps != Taps(1) else [] for axis, taps in enumerate(windows)]


def _taps(taps: Taps, axis: int) -> list[Wiring]:
    """Every place of windows along an axis."""
    windows = (taps, Taps(1)) if axis == 0 else (Taps(1), taps)
    return [Tap(*windows, *((i, 0) if axis == 0 else (0, i))) for i in range(taps.kernel)]


def _places_inside(taps: Taps, side: int) -> list[list[int]]:
    """Which place of so many each place of windows reads, in the order of windows: the nearest that is there."""
    found = []
    for i in range(taps.kernel):
        rows = []
        for window in range(taps.windows(side)):
            first = window * taps.stride - taps.padding
            places = [place for j in range(taps.kernel) if 0 <= (place := first + j * taps.dilation) < side]
            rows.append(min(places, key=lambda place: abs(place - first - i * taps.dilation)))
        found.append(rows)
    return found


def _maximum(graph: Graph, node: Node, along: Sequence[Sequence[Wiring]]) -> list[Node]:
    """What adds up to the maximum of windows: down each column, then across these.

    Args:
        graph: changed.
        node: the pooling.
        along: for each of the two axes, what reads each place of the windows; empty where nothing is to be done.
    """
    terms = [node.all_input_nodes[0]]
    for places in filter(None, along):
        read = [[_call(graph, node, "tap", place, [term]) for term in terms] for place in places]
        terms = read[0]
        for other in read[1:]:
            difference = _add([1] * len(other) + [-1] * len(terms))
            behind = _call(graph, node, "difference", difference, [*other, *terms])
            terms = [*terms, _call(graph, node, "rectifier", nn.ReLU(), [behind])]
    return terms


def _call(graph: Graph, node: Node, name: str, module: nn.Module, reads: list[Node]) -> Node:
    return graph.call_before(node, f"{graph.name(node)}.{name}", copy.copy(module).eval(), reads)


def _add(factors: list[int]) -> Add:
    return Add(torch.tensor(factors, dtype=torch.float64).view(-1, 1), torch.zeros(1, dtype=torch.float64))
