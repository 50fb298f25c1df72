"""What a network returns, as plain data: a value, or values in tuples, lists and dicts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch.fx.node import Node

from fxsnn.file.tail_layers import NoName

_LONGEST_KEY = 256
_MOST = 64


def returned_data(value: Any, places: Mapping[Node, int]) -> Any:
    """What the output of a program returns.

    Args:
        value: nodes in tuples, lists and dicts, and None.
        places: of the nodes in the file.

    Raises:
        NoName: something else is among them.
    """
    if value is None:
        return None
    if isinstance(value, Node):
        return {"node": places[value]}
    if isinstance(value, list | dict) or type(value) is tuple:
        if len(value) > _MOST:
            raise NoName(f"an output of {len(value)} parts (allowed are {_MOST})")
        if not isinstance(value, dict):
            kind = "list" if isinstance(value, list) else "tuple"
            return {kind: [returned_data(one, places) for one in value]}
        if all(isinstance(key, str) and key.isprintable() and len(key) <= _LONGEST_KEY for key in value):
            return {"dict": {key: returned_data(one, places) for key, one in value.items()}}
    raise NoName(f"a {type(value).__name__} that the network returns")


def returned_places(data: Any) -> Iterator[int]:
    """The places of the nodes that are returned, in order."""
    found: list[int] = []
    returned_values(data, found.append)
    return iter(found)


def returned_values(data: Any, value: Callable[[int], Any]) -> Any:
    """The structure, with a value for each place.

    Args:
        data: as `returned_data` gives it.
        value: of a place.
    """
    if data is None:
        return None
    ((kind, inner),) = data.items()
    if kind == "node":
        return value(inner)
    if kind == "dict":
        return {key: returned_values(one, value) for key, one in inner.items()}
    values = [returned_values(one, value) for one in inner]
    return tuple(values) if kind == "tuple" else values
