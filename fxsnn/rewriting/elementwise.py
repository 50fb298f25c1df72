"""Calls that change each number by itself, and that read constants besides: stretches of them are one function.

`x / self.up`, `torch.clamp`, `torch.where(x > 0, x, 0)`: as people write activations that PyTorch has no layer for.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx.node import Node

from fxsnn.graph import Graph, fake_quantized, writes
from fxsnn.layers import BoundedReLU, ClippedReLU

_QUOTIENTS = frozenset(("div", "divide", "true_divide", "truediv"))
_PRODUCTS = frozenset(("mul", "multiply"))
_LINEAR = _PRODUCTS | _QUOTIENTS | {
    "add", "clone", "contiguous", "detach", "getattr", "neg", "negative", "positive", "sub", "subtract",
}  # fmt: skip
_CALLS = _LINEAR | frozenset((
    "abs", "absolute", "bool", "ceil", "celu", "clamp", "clamp_max", "clamp_min", "clip", "double", "elu", "eq", "erf",
    "exp", "expm1", "fake_quantize_per_tensor_affine", "fake_quantized", "float", "floor", "floor_divide", "floordiv",
    "fmax", "fmin", "ge", "gelu", "greater", "greater_equal", "gt", "half", "hardshrink", "hardsigmoid", "hardswish",
    "hardtanh", "heaviside", "int", "le", "leaky_relu", "less", "less_equal", "log", "log1p", "logical_and",
    "logical_not", "logical_or", "logsigmoid", "long", "lt", "masked_fill", "maximum", "minimum", "mish", "ne",
    "new_full", "new_ones", "new_tensor", "new_zeros", "ones_like", "pow", "prelu", "relu", "relu6", "round", "selu",
    "sigmoid", "sign", "silu", "softplus", "softshrink", "softsign", "sqrt", "square", "tanh", "tanhshrink",
    "threshold", "to", "trunc", "type", "type_as", "where", "zeros_like",
))  # fmt: skip
"""Names of functions and methods."""
_OF_TWO = ("max", "min")
"""The same, of two tensors: of one tensor they are something else."""
_OPERATORS = (operator.and_, operator.or_, operator.invert, operator.xor)
_TO_WHOLE = ("int", "long")
_CASTS = ("float", "to", "type", "type_as")
_PROPERTIES = ("data", "device", "dtype")

_MODULES = (
    BoundedReLU, ClippedReLU, nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.Threshold, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.CELU,
    nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish, nn.Hardsigmoid, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Softsign,
    nn.LogSigmoid, nn.Softshrink, nn.Hardshrink, nn.Tanhshrink, nn.Identity,
)  # fmt: skip


@dataclass(frozen=True)
class Stretch:
    """What stands between one node and its readers, and computes each number from one number of it.

    Attributes:
        start: what is read; not part of the stretch.
        nodes: in order.
    """

    start: Node
    nodes: tuple[Node, ...]

    def within(self) -> Iterator[tuple[Node, list[Node]]]:
        """Parts with one number in and one out, as (what they read, their nodes); later ends and longer ones first."""
        for place in reversed(range(len(self.nodes))):
            for start in (self.start, *self.nodes[:place]):
                if part := self._part(start, self.nodes[place]):
                    yield start, part

    def is_linear(self, node: Node) -> bool:
        """Whether a call of it adds at most, or multiplies by constants."""
        first, *others = [arg is self.start or arg in self.nodes for arg in node.args] or [True]
        name = _name(node)
        square = any(others) and (name in _QUOTIENTS or (name in _PRODUCTS and first))
        return name in _LINEAR and not square

    def is_scaled(self, start: Node, nodes: list[Node]) -> bool:
        """Whether calls of a part begin or end with one that scales and shifts, of the rest of them."""

        def of_one(node: Node) -> bool:
            return (
                self.is_linear(node) and sum(source is start or source in nodes for source in node.all_input_nodes) == 1
            )

        first = [node for node in nodes if start in node.all_input_nodes]
        return len(nodes) > 1 and (of_one(nodes[-1]) or (len(first) == 1 and of_one(first[0])))

    def _part(self, start: Node, end: Node) -> list[Node]:
        """The nodes from behind `start` up to `end`; none where other nodes read or are read by something between."""
        found, waiting, members = {end}, [end], set(self.nodes)
        while waiting:
            for source in waiting.pop().all_input_nodes:
                if source is self.start is not start:
                    return []
                if source in members and source is not start and source not in found:
                    found.add(source)
                    waiting.append(source)
        if any(user not in found for node in found - {end} for user in node.users):
            return []
        return sorted(found)


def stretches(graph: Graph) -> list[Stretch]:
    """All of them, each as long as it can be; what is done to the images themselves is left out."""
    starts, constants = dict[Node, Node](), set[Node]()
    for node in graph:
        reads = [source for source in node.all_input_nodes if source not in constants]
        if writes(node, graph.module):
            continue
        if node.op == "get_attr" or (not reads and node.op in ("call_function", "call_method")):
            constants.add(node)
        elif _is_elementwise(graph, node):
            read = {starts.get(source, source) for source in reads}
            if len(read) == 1:
                starts[node] = read.pop()
    members: dict[Node, list[Node]] = {}
    for node, start in starts.items():
        members.setdefault(start, []).append(node)
    return [Stretch(start, tuple(nodes)) for start, nodes in members.items() if start.op != "placeholder"]


def is_property(node: Node) -> bool:
    """Whether it asks a tensor for something, and computes nothing."""
    return _name(node) == "getattr"


def function_of(graph: Graph, start: Node, nodes: Collection[Node]) -> Callable[[Tensor], Tensor | None]:
    """What a part of a stretch computes, as a function of float64 [n]; it gives `None` where it cannot be run so.

    That is also the case where not every number of the output depends on one number of the input alone: where a
    constant has a value for each channel. Constants without values (on the meta device) count as 1.
    """
    run, rank = _program_of(graph, start, nodes), rank_of(graph, max(nodes))

    def function(x: Tensor) -> Tensor | None:
        shaped = x.view(*[1] * (rank - 1), -1)
        y = run(shaped)
        return None if y is None or y.shape != shaped.shape else y.view(-1)

    return function


def function_of_channels(graph: Graph, start: Node, nodes: Collection[Node]) -> Callable[[Tensor], Tensor | None]:
    """The same of each channel by itself, where constants have a value for each: float64 [n, 1] or [n, C] to [n, C]."""
    run, rank = _program_of(graph, start, nodes), rank_of(graph, max(nodes))

    def function(x: Tensor) -> Tensor | None:
        x = x.view(len(x), -1, *[1] * (rank - 2))
        y = run(x)
        several = y is not None and y.shape[:1] + y.shape[2:] == x.shape[:1] + x.shape[2:] and y.shape[1] > 1
        return y.flatten(1) if y is not None and several else None

    return function


def rank_of(graph: Graph, node: Node) -> int:
    """How many dimensions the numbers have that a call gives, the batch included."""
    return 2 if graph.reads_features(node) else graph.image_form.rank or 4


def _program_of(graph: Graph, start: Node, nodes: Collection[Node]) -> Callable[[Tensor], Tensor | None]:
    """Runs a part of a stretch on float64 of any shape; `None` where that cannot be."""
    needed, waiting = set(nodes), list(nodes)
    while waiting:
        for source in waiting.pop().all_input_nodes:
            if source is not start and source not in needed:
                needed.add(source)
                waiting.append(source)
    part = fx.Graph()
    copies = {start: part.placeholder("x")}
    for node in sorted(needed):
        copies[node] = part.node_copy(node, copies.__getitem__)
    part.output(copies[max(nodes)])
    run = _InDoubles(graph.module, part).run

    def program(x: Tensor) -> Tensor | None:
        try:
            with torch.no_grad():
                y = run(x)
        except Exception:  # calls of the user's may raise what they like, and then it is no such function
            return None
        return y if isinstance(y, Tensor) and y.dtype == x.dtype else None

    return program


class _InDoubles(fx.Interpreter):
    """Runs a part of a graph on the CPU, its constants in double precision; what is cast is cast to that."""

    def __init__(self, module: fx.GraphModule, part: fx.Graph) -> None:
        super().__init__(module, graph=part)
        self.extra_traceback = False

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        return _double(super().get_attr(target, args, kwargs))

    def call_method(self, target: Any, args: Any, kwargs: Any) -> Any:
        if target in _TO_WHOLE and len(args) == 1:  # there are larger numbers than these types have
            return args[0].trunc().to(torch.float64)
        y = super().call_method(target, args, kwargs)
        own = target in _CASTS and isinstance(y, Tensor) and y.dtype == torch.float32
        return args[0].double() if own else y

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        target = fake_quantized if target is torch.fake_quantize_per_tensor_affine else target
        return super().call_function(target, args, kwargs)

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        module: Any = self.fetch_attr(target)
        if not isinstance(module, nn.PReLU):
            return super().call_module(target, args, kwargs)
        (x,), slopes = args, _double(module.weight)  # of each channel, of which the grid has one
        if not bool((slopes == slopes[0]).all()):
            raise ValueError
        return F.leaky_relu(x, float(slopes[0]))


def _double(value: Any) -> Any:
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return value
    if value.is_meta:
        return torch.ones(value.shape, dtype=torch.float64)
    return value.detach().to("cpu", torch.float64)


def _is_elementwise(graph: Graph, node: Node) -> bool:
    if node.op == "call_module":
        return graph.is_a(node, *_MODULES)
    name = _name(node)
    if name in _OF_TWO:
        return len(node.all_input_nodes) == 2 and not node.kwargs.keys() - {"input", "other"}
    if name == "getattr":
        return node.args[1] in _PROPERTIES
    return name in _CALLS or node.target in _OPERATORS


def _name(node: Node) -> str:
    if node.op == "call_method":
        return str(node.target)
    return str(getattr(node.target, "__name__", "")).lstrip("_") if node.op == "call_function" else ""
