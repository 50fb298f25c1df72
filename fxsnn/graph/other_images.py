"""Whether a network does the same with images of other sizes: it is traced for them, too, and programs are compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

from torch import fx
from torch.fx.node import map_aggregate

Size = tuple[int, ...]

_MOST = 1024
"""By no more do sides grow: forward may really make what it makes of them, such as a mask of all pairs of places."""


def is_of_any_size(program: fx.Graph, size: Size, trace: Callable[[Size, bool], fx.Graph]) -> bool:
    """Whether a program is that of images of other sizes, too, as far as some of them tell.

    Args:
        program: of images of `size`.
        size: of an image, without the batch.
        trace: makes the program of another size; if its second argument says so, all calls have to get through.
    """
    channels, *sides = size
    if not sides:
        return True
    larger = [_grown(side, 4) + 1 for side in sides]
    try:
        alike = calls_of(program) == calls_of(trace((channels, *larger), False))
    except Exception:  # the network's own code, for images that it may not be made for
        return False
    return alike and all(_is_alike_or_fails(program, (channels, *one), trace) for one in _other_sides(sides))


def _is_alike_or_fails(program: fx.Graph, size: Size, trace: Callable[[Size, bool], fx.Graph]) -> bool:
    try:
        return calls_of(program) == calls_of(trace(size, True))
    except Exception:  # the images are too small, or of a form that it is not made for
        return True


def _other_sides(sides: list[int]) -> Iterator[list[int]]:
    """Where one side is long and the others a little shorter, for each; and where all are short."""
    for axis in range(len(sides)):
        yield [_grown(side, 16) + 3 if place == axis else max(side - 1, 1) for place, side in enumerate(sides)]
    for times in (2, 4):
        yield [max(side // times, 1) for side in sides]


def _grown(side: int, times: int) -> int:
    return min(side * times, side + _MOST * times // 16)


def calls_of(program: fx.Graph) -> list[str]:
    """What a program does, layers by whatever names."""
    places = {node: place for place, node in enumerate(program.nodes)}
    told = []
    for node in program.nodes:
        given = cast(Any, map_aggregate)(
            (node.args, node.kwargs), lambda one: f"%{places[one]}" if isinstance(one, fx.Node) else one
        )
        told.append(f"{node.op} {'' if node.op == 'call_module' else node.target} {given}")
    return told
