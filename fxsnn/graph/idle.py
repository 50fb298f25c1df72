"""Calls that give the very tensor that they are given, for images as those with which a network is captured.

A view to the shape that images have, `float()` of what is float32 already, an `unsqueeze` that a `squeeze` takes back:
passes would have to look through them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fxsnn.graph.sized import Sized

_FORMS = frozenset(("flatten", "reshape", "reshape_as", "squeeze", "unflatten", "unsqueeze", "view", "view_as"))
"""These keep all numbers, in their order."""
_CASTS = frozenset(("cpu", "cuda", "double", "float", "half", "to", "type", "type_as"))


class IdleCalls:
    """Finds them, in one trace."""

    def __init__(self) -> None:
        self._batch_dropped = False  # where there is one image: then sizes are others than those that are known

    def without(self, target: Any, args: Sequence[Any], kwargs: Mapping[str, Any], made: Sized) -> Sized:
        """What a call gives, or the earlier value that it is again, whatever the number of images.

        Of rows [N, F] that is not said: images of any shape become rows.

        Args:
            target: of the call, the name of a method or a function.
            args: with traced values in them.
            kwargs: as `args`.
            made: what it gives; it remembers what it is another form of.
        """
        given, name = args[0] if args else None, _name(target)
        if not isinstance(given, Sized):
            return made
        if name.endswith("_") or kwargs.get("inplace") is True:  # it may be a copy, which now has other numbers
            given.form_of = None
        # To ask what a value is costs more than the trace.
        if name not in (_CASTS | _FORMS) or not _is_tensor(given) or not _is_tensor(made):
            return made
        if name == "squeeze" and _may_drop_the_batch(given, [*args[1:], *kwargs.values()]):
            self._batch_dropped = True
        if self._batch_dropped:
            return made
        if name in _CASTS:
            return given if _are_alike(given, made) else made
        made.form_of = given
        before: Sized | None = given
        while before is not None and not _are_alike(before, made):
            before = before.form_of
        return made if before is None else before


def _name(target: Any) -> str:
    """Of a tensor's method, or of the function in `torch` that does the same."""
    name = target if isinstance(target, str) else getattr(target, "__name__", "")
    return name if name is target or getattr(torch, name, None) is target else ""


def _is_tensor(value: Sized) -> bool:
    return value.fakes is not None and isinstance(value.fakes[0], Tensor)


def _are_alike(one: Sized, other: Sized) -> bool:
    assert one.fakes is not None
    assert other.fakes is not None
    return all(
        first.dim() > 2 and (first.shape, first.dtype, first.device) == (second.shape, second.dtype, second.device)
        for first, second in zip(one.fakes, other.fakes, strict=True)
    )


def _may_drop_the_batch(given: Sized, dims: Sequence[Any]) -> bool:
    """Whether a `squeeze` drops the dimension of images, too, where there is one."""
    assert given.fakes is not None
    first, second = given.fakes
    chosen = dims[0] if dims and isinstance(dims[0], tuple | list) else dims or range(first.dim())
    return any(first.shape[dim] != second.shape[dim] for dim in chosen)
