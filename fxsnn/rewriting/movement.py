"""Calls that only put numbers elsewhere: what they come to together is seen from where they put known numbers.

A channel shuffle is a view, a transposition and a view, with sizes that are read from the tensor and divided; a split
is a call and an index. So what such calls do is not read off one by one: they are run on maps all of whose numbers
differ.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import Node

from fxsnn.graph import Activation, Graph, Norm
from fxsnn.layers import (
    Channels,
    Concat,
    FlattenMaps,
    Lift,
    Lower,
    PixelShuffle,
    Places,
    Repeat,
    Select,
    Spread,
    Turn,
    Wiring,
    WithinChannels,
)

_CALLS = frozenset((
    "channel_shuffle", "chunk", "clone", "contiguous", "flip", "getattr", "getitem", "interpolate", "movedim", "narrow",
    "native_channel_shuffle", "permute", "pixel_shuffle", "pixel_unshuffle", "repeat_interleave", "reshape", "size",
    "split", "split_with_sizes", "swapaxes", "swapdims", "tensor_split", "transpose", "unflatten", "upsample", "view",
    "flatten", "index_select", "unsafe_chunk", "moveaxis", "rot90", "fliplr", "flipud", "roll", "unbind",
    "squeeze", "unsqueeze", "pad", "add", "sub", "mul", "floordiv", "truediv", "mod", "int",
))  # fmt: skip
"""Functions and methods, and arithmetic with sizes; where they put numbers is tried, whatever they are called."""
_CONCATENATIONS = frozenset((torch.cat, torch.concat, torch.concatenate))
_MODULES = (nn.Upsample, nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle, nn.Unflatten, nn.Flatten,
            nn.ReflectionPad2d, nn.ReplicationPad2d, nn.CircularPad2d, Lift, Lower)  # fmt: skip
_SIZES = ((4, 6), (6, 10))
"""Sides of maps on which movements are tried; what is not the same on all of them is no wiring of any size."""
_OF_SIGNALS = ((1, 6), (1, 10))
"""The same of maps of one row, which is what signals are."""


def concatenated(node: Node) -> tuple[Any, Any] | None:
    """What a call puts behind one another, and along which dimension; `None` if it does something else."""
    if node.op != "call_function" or node.target not in _CONCATENATIONS:
        return None
    given: dict[str, Any] = dict(zip(("tensors", "dim"), node.args, strict=False)) | dict(node.kwargs)
    return given.get("tensors"), given.get("dim", given.get("axis", 0))


def channels_of(graph: Graph, node: Node) -> int | None:
    """How many channels a value of the body has, as the layers before it tell; `None` where they do not.

    Of rows of features, how many of these, if no maps were flattened.
    """
    module: Any = graph[node] if node.op == "call_module" else None
    if isinstance(module, nn.Conv2d):
        return module.out_channels
    if isinstance(module, nn.Linear):
        return module.out_features
    if isinstance(module, Channels):
        return len(module.index)
    if node.op == "placeholder":
        return graph.input_channels
    if module is None or type(module) is nn.Flatten:
        return None
    found = [channels_of(graph, one) for one in graph.inputs(node)]
    if isinstance(module, FlattenMaps):
        return None if found[0] is None else found[0] * module.places
    if isinstance(module, Concat):
        return None if None in found else sum(filter(None, found))
    first = next((one for one in found if one is not None), None)
    return module.channels(first) if isinstance(module, PixelShuffle) and first is not None else first


@dataclass(frozen=True)
class Movement:
    """What calls do to maps that only put their numbers elsewhere.

    Attributes:
        source: the node of the maps that they read.
        layer: what does the same; `None`: nothing moves.
        of_any_size: not only to maps of the size that these have with the images of the graph.
    """

    source: Node
    layer: Wiring | None
    of_any_size: bool


def movement_of(graph: Graph, node: Node, sizes: Callable[[], Mapping[Node, tuple[int, ...]]]) -> Movement | None:
    """What a call, with the calls of its kind before it, does to maps; `None`: there is no layer that does it.

    Args:
        graph: the network.
        node: a call of it.
        sizes: gives those of values, without the batch, where they are known; asked only where they matter.
    """
    if not _may_move(graph, node) or _flattens_maps(graph, node):
        return None
    found = _movement(graph, node, sizes(), _region(graph, node, set()))
    return found or _movement(graph, node, sizes(), _region(graph, node, set(graph.nodes(nn.Flatten))))


def _movement(
    graph: Graph, node: Node, sizes: Mapping[Node, tuple[int, ...]], part: tuple[set[Node], list[Node]]
) -> Movement | None:
    region, sources = part
    maps = [one for one in sources if any(user in region and not _asks_for_count(user) for user in one.users)]
    if len(maps) != 1 or maps[0].op not in ("call_module", "placeholder"):
        return None
    channels, known = channels_of(graph, maps[0]), sizes.get(maps[0], ())
    run = _program(graph, node, region, sources)
    features = known[0] if len(known) == 1 else channels
    rows = len(known) == 1 or (not known and (graph.is_a(maps[0], nn.Linear) or graph.reads_features(maps[0])))
    if rows and features is not None and maps[0].op == "call_module" and (chosen := _agreeing(run, (features,), None)):
        return Movement(maps[0], chosen[0], True)
    if channels is None or len(known) not in (0, 3):
        return None
    tried = _OF_SIGNALS if any(graph.is_a(one, Lower) for one in region) else _SIZES
    first, *others = [(known[1], known[2]), *tried] if known else tried
    candidates = _agreeing(run, (channels, *first), None)
    squeezes = any(_name(one) == "squeeze" for one in region)  # that is something else where a side is 1
    if not candidates or (squeezes and not known):
        return None
    everywhere = [] if squeezes else candidates
    for size in others:
        everywhere = _agreeing(run, (channels, *size), everywhere)
    if not everywhere and not known:
        return None
    layer = (everywhere or candidates)[0]
    if maps[0].op == "placeholder" and not isinstance(layer, Select):  # the first layer tells how many channels it has
        return None
    return Movement(maps[0], layer, bool(everywhere))


def _agreeing(
    run: Callable[[Tensor], Any], size: tuple[int, ...], layers: list[Wiring | None] | None
) -> list[Wiring | None]:
    """Which of some layers does to maps, or rows, of a size what calls do; `None`: of all that may."""
    count = 2 * prod(size)
    numbers = (torch.arange(count, dtype=torch.float64) - count / 2 + 0.25).view(2, *size)
    try:
        moved = run(numbers)
    except Exception:  # whatever a view of maps of another size raises
        return []
    if not isinstance(moved, Tensor) or moved.dim() != numbers.dim() or len(moved) != 2 or not moved.numel():
        return []
    return [one for one in (_candidates(numbers, moved) if layers is None else layers) if _does(one, numbers, moved)]


def _may_move(graph: Graph, node: Node) -> bool:
    if graph.is_a(node, Lift):  # of the images themselves, or of what is computed, maps come
        return _may_move(graph, node.all_input_nodes[0])
    if node.op == "call_module":
        return graph.is_a(node, *_MODULES)
    if _name(node) == "squeeze" and len(node.args) + len(node.kwargs) == 1:  # it may take the batch away
        return False
    return node.op in ("call_function", "call_method") and _name(node) in _CALLS


def _name(node: Node) -> str:
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")


def _flattens_maps(graph: Graph, node: Node) -> bool:
    """Whether a call is a flatten that nothing which moves numbers stands in front of, only layers for maps."""
    flatten: Any = graph[node] if graph.is_a(node, nn.Flatten) else None
    if flatten is None or (flatten.start_dim, flatten.end_dim) != (1, -1):
        return False
    source = node.all_input_nodes[0]
    while graph.is_a(source, *Activation, *Norm):
        source = source.all_input_nodes[0]
    return graph.is_a(source, nn.Conv2d, nn.AvgPool2d)


def _region(graph: Graph, node: Node, outside: set[Node]) -> tuple[set[Node], list[Node]]:
    """The calls that may move numbers up to `node`, but for those that are to be outside, and what they read."""
    region, sources, waiting = {node}, dict[Node, None](), list(node.all_input_nodes)
    while waiting:
        one = waiting.pop()
        if one in region or one in sources:
            continue
        if _may_move(graph, one) and one not in outside:
            region.add(one)
            waiting.extend(one.all_input_nodes)
        else:
            sources[one] = None
    return region, list(sources)


def _program(graph: Graph, node: Node, region: set[Node], sources: list[Node]) -> Callable[[Tensor], Any]:
    """The calls of a region, as a function of the maps; all that it knows of other values is how many there are."""
    part = fx.Graph()
    given = part.placeholder("maps")
    copies = dict.fromkeys(sources, given)
    for one in graph:
        if one in region:
            copies[one] = part.node_copy(one, copies.__getitem__)
    part.output(copies[node])
    program = fx.GraphModule(graph.module, part)
    return lambda numbers: program.forward(numbers)


def _asks_for_count(node: Node) -> bool:
    """Whether a call asks a value for no more than how many images there are, which is the same of all values."""
    if node.target in ("size", getattr):
        rest = node.args[1:]
        return rest == (0,) or (
            rest in ((), ("shape",)) and all(u.target is operator.getitem and u.args[1] == 0 for u in node.users)
        )
    return False


def _does(layer: Wiring | None, numbers: Tensor, moved: Tensor) -> bool:
    """Whether a layer puts numbers where calls have put them; one channel mostly shows at once that it does not."""
    first = slice(0, 1)
    if isinstance(layer, WithinChannels) and not _gives(layer, numbers[first, first], moved[first, first]):
        return False
    return _gives(layer, numbers, moved)


def _gives(layer: Wiring | None, numbers: Tensor, moved: Tensor) -> bool:
    try:
        expected = numbers if layer is None else layer(numbers)
    except (IndexError, RuntimeError):  # it is for maps of other sizes
        return False
    return bool(expected.shape == moved.shape and torch.equal(expected, moved))


def _candidates(numbers: Tensor, moved: Tensor) -> list[Wiring | None]:
    """The layers of which one may do it, the simplest first."""
    first = moved[0]
    place = (first - numbers.flatten()[0]).long().clamp(0, numbers[0].numel() - 1)
    if numbers.dim() == 2:
        return [None, Channels(place)]
    height, width = numbers.shape[2:]
    channel, row, column = place // (height * width), place % (height * width) // width, place % width
    zero = (first == 0).all(2).all(1)  # none of the numbers is
    found: list[Wiring | None] = [None, Channels(torch.where(zero, -1, channel[:, 0, 0]))]
    found += [Turn(True, False, False), Turn(False, True, False), Turn(True, True, False), Turn(False, False, True)]
    if (down := moved.shape[2] // height) >= 1 and (across := moved.shape[3] // width) >= 1:
        found.append(Repeat(down, across))
        if down > 1 and numbers.shape[1] % down**2 == 0:
            found.append(PixelShuffle(down))
    elif (factor := height // max(1, moved.shape[2])) > 1 and height % factor == 0 and width % factor == 0:
        found.append(PixelShuffle(factor, back=True))
    rows, columns = row[0, :, 0].tolist(), column[0, 0].tolist()
    steps = [one[1] - one[0] if len(one) > 1 else 1 for one in (rows, columns)]
    if min(steps) > 0:
        found.append(Places((rows[0], steps[0]), (columns[0], steps[1])))
    if steps == [1, 1]:
        found.append(Spread(1, 1, (-rows[0], rows[-1] + 1 - height, -columns[0], columns[-1] + 1 - width)))
    return [*found, Select(rows, columns)]
