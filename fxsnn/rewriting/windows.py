"""Poolings whose windows follow from the size of the map: which average pooling with a fixed window does the same."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from math import lcm, prod
from typing import Any

import torch
from torch import nn
from torch.fx.node import Node

from fxsnn.graph import Graph, normalised_images
from fxsnn.layers import FixedSize, Lower, pair
from fxsnn.rewriting.reasons import NotRewritten

_MOST_SPREAD = 12
"""The largest side of a window that stands for windows of several sizes."""

Pair = tuple[int, int]
Sizes = Mapping[Node, tuple[int, ...]]


@dataclass(frozen=True)
class FixedWindow:
    """An average pooling that does what a node does.

    Attributes:
        kernel: height and width.
        stride: the same of the distance between windows.
        padding: the same of zeros on each side.
        flat: it gives rows [N, C].
    """

    kernel: Pair
    stride: Pair
    padding: Pair = (0, 0)
    flat: bool = False


def has_open_window(graph: Graph, node: Node) -> bool:
    """Whether a node averages over windows that depend on the size of the map."""
    if graph.is_a(node, nn.AvgPool2d):
        return bool(graph[node].ceil_mode)
    return graph.is_a(node, nn.AdaptiveAvgPool2d) or _is_mean(node)


def fixed_window(graph: Graph, node: Node, sizes: Sizes) -> FixedWindow:
    """The pooling with a fixed window that does what a node does.

    Args:
        graph: a program on maps.
        node: of it, with an open window.
        sizes: of all values, see `value_sizes`.

    Raises:
        NotRewritten: there is none, or the size of the map is not known.
    """
    source = node.all_input_nodes[0]
    size = sizes.get(source)
    if graph.is_a(node, nn.AvgPool2d):
        return _without_ceil_mode(graph[node], size)
    if size is None:
        remedy = "Give example=..., images of the size that the network is for, or use nn.AvgPool2d with a fixed window"
        raise NotRewritten("its windows depend on the size of the map that it reads, which is not known", remedy)
    if graph.is_a(node, nn.AdaptiveAvgPool2d):
        outputs: Any = graph[node].output_size
        outputs = outputs if isinstance(outputs, tuple | list) else (outputs, outputs)
        (height, width), flat = (size[1:], False) if len(size) == 3 else ((0, 0), False)
        wanted = (outputs[0] or height, outputs[1] or width)
    else:
        (height, width), wanted, flat = _mean(node, size)
    if min(height, width) < 1:
        raise NotRewritten(f"it reads {list(size)}, which is no map [C, H, W]", "Let it read the maps")
    vertical, horizontal = _adaptive(height, wanted[0]), _adaptive(width, wanted[1])
    return FixedWindow((vertical[0], horizontal[0]), (vertical[1], horizontal[1]), flat=flat)


def counts_unevenly(graph: Graph, node: Node) -> bool:
    """Whether windows of an average pooling divide by how many of their places are in the map."""
    pool: Any = graph[node] if graph.is_a(node, nn.AvgPool2d) else None
    if pool is None or pool.ceil_mode or pool.divisor_override is not None:
        return False
    return not pool.count_include_pad and any(pair(pool.padding))


def spread_places(side: int, kernel: int, stride: int, padding: int) -> tuple[list[int], int]:
    """Rows or columns such that windows of one size, one behind the other, average over what uneven ones do.

    Each place stands there as often as its window is smaller than the least size that all sizes divide.

    Returns:
        The places, and the size.

    Raises:
        NotRewritten: that size is too large.
    """
    starts = [place * stride - padding for place in range(_places(side, kernel, stride, padding))]
    windows = [range(max(0, start), min(side, start + kernel)) for start in starts]
    size = lcm(*map(len, windows))
    if size > _MOST_SPREAD:
        raise NotRewritten(
            f"its windows have {len({*map(len, windows)})} sizes", "Use count_include_pad=True or no padding"
        )
    return [place for window in windows for place in window for _ in range(size // len(window))], size


def join_means(graph: Graph, nodes: list[Node], sizes: Sizes) -> list[Node]:
    """Of the nodes, a mean over one axis of a map and the mean over the other behind it become one, in place.

    Returns:
        The nodes that are left.
    """
    left = list(nodes)
    for node in nodes:
        second = graph.sole_user(node)
        if node in left and second in left and second is not None:
            first_axes, second_axes = (_dropped_axes(one, sizes) for one in (node, second))
            if first_axes in ({2}, {3}) and second_axes == {2} and len(sizes[node]) == 2:
                node.args, node.kwargs = (node.all_input_nodes[0], (2, 3)), {}
                graph.bypass(second)
                left.remove(second)
    return left


def _is_mean(node: Node) -> bool:
    return (node.op, node.target) in (("call_method", "mean"), ("call_function", torch.mean))


def _dropped_axes(node: Node, sizes: Sizes) -> set[int]:
    """The axes over which a mean averages, if it drops them."""
    size, (axes, keeps) = sizes.get(node.all_input_nodes[0]), _mean_options(node)
    return set() if size is None or keeps or axes is None else {axis % (len(size) + 1) for axis in axes}


def _mean_options(node: Node) -> tuple[list[int] | None, bool]:
    """The axes of a mean as they are written, and whether it keeps them; `None`: it is another kind of call."""
    if not _is_mean(node):
        return None, False
    given = dict(zip(("dim", "keepdim", "dtype"), node.args[1:], strict=False)) | dict(node.kwargs)
    dims: Any = given.get("dim", given.get("axis"))
    dims = list(dims) if isinstance(dims, list | tuple) else [dims]
    plain = given.get("dtype") is None and all(isinstance(one, int) for one in dims)
    return dims if plain else None, bool(given.get("keepdim", given.get("keepdims", False)))


def _mean(node: Node, size: tuple[int, ...]) -> tuple[Pair, Pair, bool]:
    """Height and width of what a mean reads and of what it gives, and whether that is rows."""
    (dims, keeps), rank = _mean_options(node), len(size) + 1
    remedy = "Average over height and width of the maps: mean((2, 3)), or use nn.AdaptiveAvgPool2d(1)"
    if rank not in (3, 4) or dims is None:
        raise NotRewritten("this mean is none over the places of a map", remedy)
    axes = {axis % rank for axis in dims}
    height, width = size[1:] if rank == 4 else (1, size[1])
    if axes == set(range(2, rank)):
        return (height, width), (1, 1), not keeps
    if keeps and len(axes) == 1 and axes < {2, 3}:
        return (height, width), (1, width) if axes == {2} else (height, 1), False
    raise NotRewritten(f"this mean is over {sorted(axes)} of {rank} dimensions", remedy)


def _adaptive(side: int, outputs: int) -> Pair:
    """Size and distance of the windows of an adaptive pooling, along one axis."""
    if (found := _alike(side, outputs)) is not None:
        return found
    others = [count for count in range(1, side + 1) if _alike(side, count) is not None]
    near = sorted(sorted(others, key=lambda count: abs(count - outputs))[:2])
    raise NotRewritten(
        f"its windows differ: it makes {outputs} of {side} rows or columns",
        f"Use an output size of {' or '.join(map(str, near))}, or images for which it divides",
    )


def _alike(side: int, outputs: int) -> Pair | None:
    starts = [place * side // outputs for place in range(outputs)]
    kernels = {-(-(place + 1) * side // outputs) - start for place, start in enumerate(starts)}
    distances = {behind - before for before, behind in itertools.pairwise(starts)}
    if len(kernels) > 1 or len(distances) > 1 or 0 in distances:
        return None
    # Of a single window the distance is free: with 1, a map of another size does not pass for one of this.
    return kernels.pop(), distances.pop() if distances else 1


def _without_ceil_mode(pool: Any, size: tuple[int, ...] | None) -> FixedWindow:
    if size is None or len(size) != 3:
        remedy = "Use ceil_mode=False, or give example=..., images for which it makes no difference"
        raise NotRewritten("its ceil_mode is True, and the size of the map that it reads is not known", remedy)
    kernel, stride, padding = (pair(option) for option in (pool.kernel_size, pool.stride, pool.padding))
    axes = list(zip(size[1:], kernel, stride, padding, strict=True))
    if all(_places(*axis) == _places(*axis, ceil=True) for axis in axes):
        return FixedWindow(kernel, stride, padding)
    enough = [_padding_for(*axis) for axis in axes]
    also = "" if None in enough else f", with padding={tuple(enough)} for as many windows"
    raise NotRewritten(
        f"its ceil_mode is True, and windows of a {size[1]}x{size[2]} map hang over its edge",
        f"Use ceil_mode=False{also}: every window must have the same size",
    )


def _places(side: int, kernel: int, stride: int, padding: int, *, ceil: bool = False) -> int:
    """How many windows there are along one axis."""
    room = side + 2 * padding - kernel
    places = (-(-room // stride) if ceil else room // stride) + 1
    return places - (ceil and (places - 1) * stride >= side + padding)


def _padding_for(side: int, kernel: int, stride: int, padding: int) -> int | None:
    """The least padding with which whole windows are as many as those that may hang over the edge."""
    wanted = _places(side, kernel, stride, padding, ceil=True)
    return next((more for more in range(kernel // 2 + 1) if _places(side, kernel, stride, more) == wanted), None)


def squeezed_map(graph: Graph, node: Node, sizes: Sizes) -> Node | None:
    """The map of one place of which squeezes, or indices, make a row, at the last of them; these are a flatten."""
    start = node
    while is_squeeze(start) and (start is node or graph.sole_user(start) is not None):
        start = start.all_input_nodes[0]
    given, made = sizes.get(start, ()), sizes.get(node, ())
    rows = len(made) == 1 and len(given) == 3 and prod(given) == prod(made)
    return start if rows and not is_squeeze(start) else None


def is_squeeze(node: Node) -> bool:
    """Whether a node drops dimensions that it names: any other squeeze drops that of a single image, too.

    An index of the only place of a dimension does so, too, `x[:, :, 0, 0]`; that it is the only one is not looked at.
    """
    if node.target is operator.getitem:
        index = node.args[1] if isinstance(node.args[1], tuple) else ()
        return index[:1] in ((slice(None),), (...,)) and all(one in (..., slice(None), 0, -1) for one in index)
    called = (node.op, node.target) in (("call_method", "squeeze"), ("call_function", torch.squeeze))
    return called and (len(node.args) > 1 or "dim" in node.kwargs)


def fix_size(graph: Graph) -> None:
    """Let a graph take images of the size with which it was captured only, since something in it follows from that."""
    if graph.image_size is not None and not graph.nodes(FixedSize):
        first, affine = normalised_images(graph)  # what is done when images are rounded stays on them
        first = graph.input() if affine is None else first
        graph.insert_after(first, "fixed_size", FixedSize(tuple(graph.image_size)).eval())


def maps_of(graph: Graph, node: Node) -> Node:
    """What a pooling reads as maps, where it reads signals."""
    source = node.all_input_nodes[0]
    return source.all_input_nodes[0] if graph.is_a(source, Lower) else source
