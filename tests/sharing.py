"""Less work for the quick run: networks that are converted once for many tests, and cases that only slow tests try."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Collection, Iterable
from typing import Any, ParamSpec

import pytest
from _pytest.mark import ParameterSet

import fxsnn

P = ParamSpec("P")


def converted_once(make: Callable[P, fxsnn.SpikingNetwork]) -> Callable[P, fxsnn.SpikingNetwork]:
    """Makes a network once for all calls with the same arguments; each call gets a copy of its own."""
    kept: Any = functools.cache(make)

    @functools.wraps(make)
    def its_copy(*args: P.args, **kwargs: P.kwargs) -> fxsnn.SpikingNetwork:
        if not all(map(_is_hashable, (*args, *kwargs.values()))):
            return make(*args, **kwargs)
        return copy.deepcopy(kept(*args, **kwargs))

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
