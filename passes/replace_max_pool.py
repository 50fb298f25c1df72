"""ReplaceMaxPool: max pooling as neurons that can do it, exactly or nearly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.fx.node import Node

from fxsnn.errors import OptionError
from fxsnn.graph import Activation, Graph
from fxsnn.layers import Add, AnyPool2d, Tap, Taps, pair
from fxsnn.options import is_one_of, shown
from fxsnn.rewriting import Pass, facts, pools_activations

MAX_POOL_WAYS = ("rectifiers", "average", "stride", "any")
"""What `ReplaceMaxPool` can put in the place of max pooling."""


class ReplaceMaxPool(Pass):
    """Max pooling of activations becomes something that integrate-and-fire neurons compute.

    Args:
        by: "rectifiers" keeps the function: `max(a, b) = a + ReLU(b - a)`, first down, then across the window, and
            neurons for the sum. Right in the limit of T; with few steps it overestimates, since what two spike trains
            differ by for a while counts.
            "any" keeps it, too, as long as there are no spikes: one neuron a window that spikes in each step in which
            any neuron of the window does (`AnyPool2d`). Its rate lies between the maximum of the rates and their sum,
            however long the network runs. It needs no sums, but neurons that are reset to zero whatever the network's
            reset is.
            "average" puts an average pooling in its place, "stride" takes the middle of each window: other functions,
            for networks that are trained afterwards.

    A ReLU behind the pooling moves in front of it, which changes nothing. Poolings that are not in front of layers with
    weights stay as they are: the tail may compute maxima.

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
        nodes = [node for node in graph.body(nn.MaxPool2d) if pools_activations(graph, node)]
        for node in nodes:
            _put_behind_activation(graph, node)
        replace: dict[str, Callable[[Graph, Node], None]]
        replace = {"rectifiers": _by_rectifiers, "any": _by_any, "average": _by_average, "stride": _by_stride}
        for node in nodes:
            replace[self.by](graph, node)


def _put_behind_activation(graph: Graph, node: Node) -> None:
    """Let a pooling read the activation that reads it: activations rise, so that the order does not matter."""
    behind, source = graph.sole_user(node), node.all_input_nodes[0]
    if behind is None or not graph.is_a(behind, *Activation) or graph.is_a(source, *Activation):
        return
    behind.replace_all_uses_with(node)
    behind.args = (source,)
    node.args = (behind,)
    node.append(behind)  # in the order of execution: the activation, then the pooling
    behind.append(node)


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
    """A maximum down each column of the window, then one across these."""
    down, across = _windows(graph[node])

    def call(name: str, module: nn.Module, reads: list[Node]) -> Node:
        return graph.call_before(node, f"{graph.name(node)}.{name}", module.eval(), reads)

    terms = [node.all_input_nodes[0]]
    for taps, axis in ((down, 0), (across, 1)):
        if taps == Taps(1):
            continue
        windows = (taps, Taps(1)) if axis == 0 else (Taps(1), taps)
        places = [
            [call("tap", Tap(*windows, *((i, 0) if axis == 0 else (0, i))), [term]) for term in terms]
            for i in range(taps.kernel)
        ]
        terms = places[0]
        for other in places[1:]:
            difference = call("difference", _add([1] * len(other) + [-1] * len(terms)), [*other, *terms])
            terms = [*terms, call("rectifier", nn.ReLU(), [difference])]
    if len(terms) == 1:
        node.replace_all_uses_with(terms[0])
        return
    total = call("sum", _add([1] * len(terms)), terms)
    graph.replace(node, nn.ReLU().eval())
    node.args = (total,)


def _add(factors: list[int]) -> Add:
    return Add(torch.tensor(factors, dtype=torch.float64).view(-1, 1), torch.zeros(1, dtype=torch.float64))
