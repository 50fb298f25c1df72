"""Calls that add up tensors of the network."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.node import Node

from fxsnn.graph import Graph, Pooling, made_of_activations
from fxsnn.layers import Add, FixedSize, Lift, Lower, Wiring
from fxsnn.options import real_number

_ADD = frozenset({operator.add, operator.iadd, torch.add, "add", "add_", "__add__", "__radd__", "__iadd__"})
_SUBTRACT = frozenset({operator.sub, operator.isub, torch.sub, torch.subtract, "sub", "sub_", "subtract", "subtract_"})
_PASS_ON = (*Pooling, nn.MaxPool2d, nn.Flatten, FixedSize, Lift, Lower, Wiring)


def terms_of(node: Node, sizes: Mapping[Node, tuple[int, ...]]) -> list[tuple[Node, float]] | None:
    """What a call adds up, each with its factor; `None` where it does not add two tensors of the network of one shape.

    Args:
        node: the call.
        sizes: of values, without the batch, where they are known.
    """
    if node.op not in ("call_function", "call_method") or not (node.target in _ADD or node.target in _SUBTRACT):
        return None
    given: dict[str, Any] = dict(zip(("input", "other"), node.args, strict=False)) | dict(node.kwargs)
    alpha = real_number(given.pop("alpha", 1))
    first, second = given.get("input"), given.get("other")
    if alpha is None or len(given) != 2 or not isinstance(first, Node) or not isinstance(second, Node):
        return None
    if "get_attr" in (first.op, second.op):
        return None
    if sizes.get(first) != sizes.get(second):
        return None
    return [(first, 1.0), (second, -alpha if node.target in _SUBTRACT else alpha)]


def adds_up_activations(graph: Graph, node: Node) -> bool:
    """Whether what a sum or layer with weights adds up, activations and what is made of them, is nowhere negative."""
    add: Any = graph[node]
    weights = (add.factor, add.shift) if isinstance(add, Add) else (add.weight, add.bias)
    if any(one is not None and (one.is_meta or bool((one < 0).any())) for one in weights):
        return False
    return reads_activations(graph, node)


def reads_activations(graph: Graph, node: Node) -> bool:
    """Whether what a call reads is activations, and what is made of them by poolings and wiring: nowhere negative."""
    return all(
        made_of_activations(graph.module, read, lambda one: graph.is_a(one, *_PASS_ON)) for read in node.all_input_nodes
    )


def sum_of(terms: Iterable[tuple[Node, Tensor]], shift: Tensor) -> tuple[tuple[Node, ...], Add]:
    """What a sum reads, each once, and the sum; what is added up several times counts as often.

    Args:
        terms: what is added up, and its factor for each channel, or for all.
        shift: what is added besides, for each channel, or for all.
    """
    factors: dict[Node, Tensor] = {}
    for read, factor in terms:
        factors[read] = factors[read] + factor if read in factors else factor
    channels = max(len(factor) for factor in factors.values())
    add = Add(torch.stack([factor.expand(channels) for factor in factors.values()]), shift)
    return tuple(factors), add.eval()


def put_sum(graph: Graph, node: Node, terms: Iterable[tuple[Node, Tensor]], shift: Tensor) -> None:
    """Let a node of a graph be the sum of these terms and a shift: see `sum_of`."""
    reads, add = sum_of(terms, shift)
    if node.op != "call_module":
        node.target, node.op = graph.unused_name(name_inside(node, "add")), "call_module"
    node.args, node.kwargs = reads, {}
    graph.replace(node, add)


def name_inside(node: Node, name: str) -> str:
    """A name for what takes a call's place: that of the innermost module in whose `forward` it stands, and `name`."""
    stack: Any = node.meta.get("nn_module_stack") or {}
    inside = next((str(entry[0]) for entry in reversed(stack.values())), "")
    return f"{inside}.{name}" if inside else name
