"""Where in what a file holds there are dicts that may be state dicts."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any, TypeAlias

Place: TypeAlias = tuple[str | int, ...]
"""The keys, one after the other, that lead from what a file holds to a dict in it."""

Table: TypeAlias = dict[str, Any]
"""A dict in a file, its keys as text."""


def tables_in(value: Any) -> list[tuple[Place, Table]]:
    """All dicts in dicts, lists and tuples, the outermost first, each once; a file may have one that holds itself."""
    found: list[tuple[Place, Table]] = []
    seen = set[int]()
    waiting = deque[tuple[Place, Any]]([((), value)])
    while waiting:
        place, holder = waiting.popleft()
        if id(holder) in seen:
            continue
        seen.add(id(holder))
        items = list(_items(holder))
        if isinstance(holder, dict):
            found.append((place, {str(key): inner for key, inner in items}))
        waiting.extend(((*place, key), inner) for key, inner in items if isinstance(inner, dict | list | tuple))
    return found


def _items(holder: Any) -> Iterable[tuple[str | int, Any]]:
    if isinstance(holder, dict):
        return ((key, inner) for key, inner in holder.items() if isinstance(key, str | int))
    return enumerate(holder) if isinstance(holder, list | tuple) else ()


def as_code(place: Place) -> str:
    """Python that takes the dict at a place out of `checkpoint`."""
    return "checkpoint" + "".join(f"[{key!r}]" for key in place)
