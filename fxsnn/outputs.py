"""What a network returns: a tensor, or tensors in tuples, lists and dicts, as deep as it likes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from fxsnn.errors import DataError


def tensors_in(outputs: Any) -> list[Tensor]:
    """All tensors of an output, in order."""
    return [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]


def with_each(change: Callable[[Tensor], Tensor], outputs: Any) -> Any:
    """The same structure with every tensor changed."""
    return pytree.tree_map(lambda leaf: change(leaf) if isinstance(leaf, Tensor) else leaf, outputs)


def require_rows(outputs: Any, count: int, *, what: str = "image") -> Any:
    """Refuse outputs that cannot be told apart by image.

    Args:
        outputs: what a network gave.
        count: how many rows each tensor must have.
        what: a row is of, for the message.

    Raises:
        DataError: a tensor has other rows, or something is neither a tensor nor None.
    """
    for path, leaf in pytree.tree_flatten_with_path(outputs)[0]:
        if leaf is None or (isinstance(leaf, Tensor) and leaf.shape[:1] == (count,)):
            continue
        found = f"of shape {list(leaf.shape)}" if isinstance(leaf, Tensor) else f"a {type(leaf).__name__}"
        raise DataError(
            f"output{pytree.keystr(path)} of the network is {found}; expected are tensors of {count} rows, one for "
            f"each {what}, in tuples, lists or dicts. Only a plain call of the network gives others"
        )
    return outputs


def joined(outputs: Sequence[Any], dim: int = 0) -> Any:
    """Outputs for several batches as one: their tensors are joined along a dimension.

    Raises:
        DataError: they do not have the same structure.
    """
    if len(outputs) == 1:
        return outputs[0]
    leaves, structures = zip(*map(pytree.tree_flatten, outputs), strict=True)
    if any(one != structures[0] for one in structures):
        raise DataError("the network returns another structure for other images; give it all of them at once, or each")
    tensors = [
        torch.cat(parts, dim) if isinstance(parts[0], Tensor) else parts[0] for parts in zip(*leaves, strict=True)
    ]
    return pytree.tree_unflatten(tensors, structures[0])


def distances(left: Any, right: Any) -> list[float]:
    """Tensor by tensor, the largest absolute difference of two outputs; 0 where both are NaN, or the same infinity.

    Raises:
        DataError: they differ in structure or shape.
    """
    (ours, structure), (theirs, other) = (pytree.tree_flatten(outputs) for outputs in (left, right))
    if structure != other or [isinstance(one, Tensor) for one in ours] != [isinstance(one, Tensor) for one in theirs]:
        raise DataError(f"the outputs have the structures {structure} and {other}, or tensors in other places")
    pairs = [pair for pair in zip(ours, theirs, strict=True) if isinstance(pair[0], Tensor)]
    if wrong := next(((a, b) for a, b in pairs if a.shape != b.shape), None):
        raise DataError(f"the outputs have shapes {list(wrong[0].shape)} and {list(wrong[1].shape)}")
    return [_distance(a.double(), b.double()) for a, b in pairs]


def largest_in(tensor: Tensor) -> float:
    """The largest magnitude in a tensor that is finite; 0 where there is none."""
    return float(tensor.double().nan_to_num(0, 0, 0).abs().max()) if tensor.numel() else 0.0


def _distance(a: Tensor, b: Tensor) -> float:
    same = (a == b) | (a.isnan() & b.isnan())
    return float((a - b).abs().masked_fill(same, 0).max()) if a.numel() else 0.0
