"""The tail of a spiking network, run on decoded activations, whoever ran the layers before it.

The tail is the user's own: it may squeeze, cut or join whatever it likes. So it is run as the user's network would run
it, on all images at once, and never on a single row where there are more: `squeeze()` would take the batch from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from fxsnn.outputs import joined, require_rows, with_each

LARGEST = 1 << 30
"""So many bytes of activations are given to a tail at once; of more images it is run in parts."""


def parts_of(images: Tensor, most: int) -> Sequence[Tensor]:
    """Images, so many at a time; the last part has one more where otherwise a single image were left."""
    most = max(1, most)
    if most > 1 and len(images) > most and len(images) % most == 1:
        *parts, last, single = images.split(most)
        return [*parts, torch.cat([last, single])]
    return images.split(most)


def outputs_of(tail: fx.GraphModule, activations: Iterable[Tensor], images: Tensor) -> Any:
    """What a network returns.

    Args:
        tail: see `Graph.behind`.
        activations: [n, ...] for some images after the others, all of them together [N, ...].
        images: [N, C, H, W].

    Raises:
        DataError: they are too many for the tail at once, and what it gives cannot be told apart by image.
    """
    found, waiting = list[Any](), list[Tensor]()
    start = stop = 0
    for part in activations:
        waiting.append(part)
        stop += len(part)
        several = stop - start > 1 and len(images) - stop > 1
        if several and sum(one.nbytes for one in waiting) >= LARGEST:
            found.append(_whole(tail, waiting, images[start:stop]))
            start = stop
    if not found:
        return tail.forward(_cat(waiting), images)
    return joined([*found, _whole(tail, waiting, images[start:])])


def _whole(tail: fx.GraphModule, waiting: list[Tensor], images: Tensor) -> Any:
    """What the tail gives for some of the images; their activations are not kept."""
    activations = _cat(waiting)
    waiting.clear()
    return require_rows(tail.forward(activations, images), len(images))


def _cat(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def outputs_after_each_step(
    tail: fx.GraphModule, activations: Tensor, images: Tensor, steps: int, *, frames: bool
) -> Any:
    """What a network returns after each step: its structure, tensors [T, N, ...].

    Args:
        tail: see `Graph.behind`.
        activations: [T * N, ...].
        images: [N, C, H, W], or with `frames` [N, T, C, H, W].
        steps: T.
        frames: images change over time: after each step the tail reads the mean of the frames so far.

    Raises:
        DataError: what the tail gives cannot be told apart by image and step.
    """
    rows = len(activations)
    if any(node.users for node in tail.graph.find_nodes(op="placeholder", target="images")):
        so_far = (images[:, : step + 1].mean(1, keepdim=True) for step in range(steps)) if frames else [images] * steps
        images = torch.cat(list(so_far))
    if rows == 1:  # twice, as a batch
        activations, images = (one.repeat_interleave(2, 0) for one in (activations, images))
    outputs = require_rows(tail.forward(activations, images), len(activations), what="image and step")
    return with_each(lambda tensor: tensor[:rows].unflatten(0, (steps, -1)), outputs)
