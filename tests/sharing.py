"""Less work for the quick run: what is made once for many tests, and cases that only slow tests try."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Collection, Iterable
from typing import Any, ParamSpec, TypeVar

import pytest
from _pytest.mark import ParameterSet

import fxsnn
from fxsnn.graph import Graph

P = ParamSpec("P")
T = TypeVar("T")


def converted_once(make: Callable[P, fxsnn.SpikingNetwork]) -> Callable[P, fxsnn.SpikingNetwork]:
    """Makes a network once for all calls with the same arguments; each call gets a copy of its own."""
    return _made_once(make, copy.deepcopy)


def rewritten_once(make: Callable[P, Graph]) -> Callable[P, Graph]:
    """Makes a graph once for all calls with the same arguments; each call gets one with tensors of its own."""
    return _made_once(make, Graph.detached)


def _made_once(make: Callable[P, T], copy_of: Callable[[T], T]) -> Callable[P, T]:
    kept: Any = functools.cache(make)

    @functools.wraps(make)
    def its_copy(*args: P.args, **kwargs: P.kwargs) -> T:
        if not all(map(_is_hashable, (*args, *kwargs.values()))):
            return make(*args, **kwargs)
        return copy_of(kept(*args, **kwargs))

    return its_copy


def _is_hashable(value: object) -> bool:
    try:
        hash(value)
    except TypeError:  # a mapping, or a dataclass that holds one
        return False
    return True


def cases(names: str, values: Iterable[Any], *, quick: int | Collection[Any], ids: Any = None) -> pytest.MarkDecorator:
    """As `pytest.mark.parametrize`, but only some values are tried in the quick run, and the others by slow tests.

    Args:
        names: of the arguments.
        values: as of `pytest.mark.parametrize`.
        quick: how many of the first, or which.
        ids: as of `pytest.mark.parametrize`.
    """
    several = "," in names

    def marked(value: Any) -> ParameterSet:
        given = value if isinstance(value, ParameterSet) else pytest.param(*(value if several else (value,)))
        return pytest.param(*given.values, marks=[*given.marks, pytest.mark.slow], id=given.id)

    return pytest.mark.parametrize(
        names,
        [
            value if (place < quick if isinstance(quick, int) else value in quick) else marked(value)
            for place, value in enumerate(values)
        ],
        ids=ids,
    )
