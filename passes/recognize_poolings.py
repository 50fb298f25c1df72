"""RecognizePoolings: sums over maps, means of flattened maps and norms of order 1 are averages, times a number."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.fx.node import Node

from fxsnn.graph import Graph, value_sizes
from fxsnn.layers import pair
from fxsnn.rewriting import Pass, facts, fix_size

_SUMS = ("sum", torch.sum)
_MEANS = ("mean", torch.mean)
_FLATTENS = ("flatten", "reshape", "view", torch.flatten, torch.reshape)
_NORMS = (F.lp_pool2d, F.lp_pool1d)
_MAP = 3
"""Dimensions of a map, without the batch."""


class RecognizePoolings(Pass):
    """`x.sum((2, 3))`, `x.flatten(2).mean(2)` and `nn.LPPool2d(1, k)` → averages, with a factor behind them.

    A sum over all places of a map is so many times their mean, and a mean over places that a view has put behind one
    another is one over height and width: both follow from the known size of images (`FixedSize`). The norm of order 1
    is a sum. The tail is left alone.

    Examples:
        >>> import torch, fxsnn
        >>> from torch import nn
        >>> from fxsnn.passes import Canonicalize
        >>> layers = nn.Conv2d(1, 2, 3), nn.ReLU(), nn.LPPool2d(1, 2), nn.Conv2d(2, 2, 3), nn.ReLU()
        >>> graph = Canonicalize()(fxsnn.capture(nn.Sequential(*layers))).after
        >>> print(RecognizePoolings()(graph).after.text(hashes=False))
        name             calls                                                    reads            tensors
        ---------------  -------------------------------------------------------  ---------------  -------
        input            placeholder
        0                Conv2d(1, 2, kernel_size=(3, 3), stride=(1, 1))          input
        1                ReLU()                                                   0
        2                AvgPool2d(kernel_size=(2, 2), stride=(2, 2), padding=0)  1
        _2_scaled (mul)  (4)                                                      2
        3                Conv2d(2, 2, kernel_size=(3, 3), stride=(1, 1))          _2_scaled (mul)
        4                ReLU()                                                   3
    """

    needs = facts("canonical")
    preserves = True

    def rewrite(self, graph: Graph) -> None:
        """Edit `graph` in place."""
        body = graph.body()
        for node in body:
            if (pool := _norm_of_order_one(graph, node)) is not None:
                node.args, node.kwargs = (node.all_input_nodes[0],), {}
                graph.replace(node, pool.eval())
                _scale(graph, node, _places(pool))
        over = [node for node in body if _dimensions(node) is not None]
        sizes = value_sizes(graph) if over else {}
        for node in over:
            _average(graph, node, sizes)


def _average(graph: Graph, node: Node, sizes: Mapping[Node, tuple[int, ...]]) -> None:
    """Let a sum over all places be their mean, times their number, and a mean of a flattened map that of the map."""
    source, (dims, keeps) = node.all_input_nodes[0], _dimensions(node) or ([], False)
    size = sizes.get(source, ())
    if len(size) < 2 or {dim % (len(size) + 1) for dim in dims} != set(range(2, len(size) + 1)):
        return
    maps = source.all_input_nodes[0] if source.all_input_nodes else source
    flattened = source.target in _FLATTENS or graph.is_a(source, nn.Flatten)
    is_map = len(sizes.get(maps, ())) == _MAP and sizes[maps][0] == size[0]
    if flattened and len(size) == 2 and is_map and not keeps:
        source = maps
    elif node.target in _MEANS:
        return
    adds_up = node.target in _SUMS
    node.op, node.target = "call_method", "mean"
    node.args, node.kwargs = (source, tuple(range(2, len(sizes[source]) + 1))), {"keepdim": True} if keeps else {}
    if adds_up:
        _scale(graph, node, prod(size[1:]))
    fix_size(graph)


def _dimensions(node: Node) -> tuple[list[int], bool] | None:
    """Those that a sum or a mean is over, and whether it keeps them; `None`: it is neither, or says more."""
    if node.op not in ("call_method", "call_function") or node.target not in _SUMS + _MEANS:
        return None
    given = dict(zip(("dim", "keepdim", "dtype"), node.args[1:], strict=False)) | dict(node.kwargs)
    dims: Any = given.get("dim", given.get("axis"))
    dims = list(dims) if isinstance(dims, list | tuple) else [dims]
    plain = given.get("dtype") is None and all(isinstance(one, int) for one in dims)
    return (dims, bool(given.get("keepdim", given.get("keepdims", False)))) if plain else None


def _norm_of_order_one(graph: Graph, node: Node) -> nn.AvgPool1d | nn.AvgPool2d | None:
    """The average pooling whose windows a pooling by norms adds up."""
    if graph.is_a(node, nn.LPPool1d, nn.LPPool2d):
        layer: Any = graph[node]
        kind: Any = nn.AvgPool1d if isinstance(layer, nn.LPPool1d) else nn.AvgPool2d
        given = {name: getattr(layer, name) for name in ("norm_type", "kernel_size", "stride", "ceil_mode")}
    elif node.target in _NORMS:
        kind = nn.AvgPool1d if node.target is F.lp_pool1d else nn.AvgPool2d
        names = ("input", "norm_type", "kernel_size", "stride", "ceil_mode")
        given = {"stride": None, "ceil_mode": False, **dict(zip(names, node.args, strict=False)), **node.kwargs}
    else:
        return None
    if given["norm_type"] != 1 or any(isinstance(given[name], Node) for name in ("kernel_size", "stride")):
        return None
    kernel, stride = given["kernel_size"], given["stride"]
    if kind is nn.AvgPool2d:
        kernel, stride = pair(kernel), pair(kernel if stride is None else stride)
    pool: nn.AvgPool1d | nn.AvgPool2d = kind(kernel, stride, 0, bool(given["ceil_mode"]))
    return pool


def _places(pool: nn.AvgPool1d | nn.AvgPool2d) -> int:
    """How many places a window has."""
    kernel: Any = pool.kernel_size
    return prod(kernel) if isinstance(kernel, tuple) else int(kernel)


def _scale(graph: Graph, node: Node, factor: int) -> None:
    with graph.module.graph.inserting_after(node):
        new = graph.module.graph.create_node(
            "call_function", operator.mul, (node, factor), name=f"{graph.name(node)}_scaled"
        )
    new.meta = dict(node.meta)
    node.replace_all_uses_with(new, delete_user_cb=lambda user: user is not new)
