"""What stands in a file's content for objects that are not read: nothing of theirs is imported or run."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Any


class Unread:
    """Stands for an object; whatever it would be made of is dropped."""

    def __init__(self, *parts: Any, **named: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


class UnreadDict:
    """Stands for an object that is filled like a dict: PyTorch's reader fills no other class than dicts of its own."""

    def __new__(cls, *parts: Any, **named: Any) -> Any:
        """A dict in its place."""
        return OrderedDict()


def stand_ins(classes: Iterable[str]) -> Iterator[list[Callable[..., Any] | tuple[Callable[..., Any], str]]]:
    """What PyTorch's reader of tensors alone is to use for these classes, in each of the ways that may work.

    Nothing tells which of them are filled like dicts; those of numpy never are.
    """
    for kind in (Unread, UnreadDict):
        yield [(Unread if name.startswith("numpy.") else kind, name) for name in classes]
