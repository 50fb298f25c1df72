"""A bounded number of values of each channel of a layer, and what suits them."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

_VALUES = 1 << 7
"""So many values of a channel are kept of an image."""
_VALUES_IN_ALL = 1 << 15
_HALVINGS = 50
"""Of an interval of doubles, down to about the last of their 53 digits; more would change nothing."""


def some_of(batches: Iterable[Tensor]) -> Tensor:
    """Values of each channel, [C, n], of batches [N, C, ...]: all of them, or of many a random part, the same twice."""
    generator = torch.Generator().manual_seed(0)
    kept: list[Tensor] = []
    share = 1.0  # the same of every image, so that all count alike

    def some(channels: Tensor, count: int) -> Tensor:
        chosen = torch.randperm(channels.shape[1], generator=generator)[:count]
        return channels[:, chosen.to(channels.device)]

    for value in batches:
        channels = value.double().transpose(0, 1).flatten(1)
        if not kept:
            share = min(1.0, _VALUES * len(value) / channels.shape[1])
        most = max(1, round(share * channels.shape[1]))
        kept.append(some(channels, most) if channels.shape[1] > most else channels)
        if sum(part.shape[1] for part in kept) > _VALUES_IN_ALL:  # from now on, and of what there is, only half
            kept, share = [some(part, (part.shape[1] + 1) // 2) for part in kept], share / 2
    return torch.cat(kept, 1)


def shift_for_mean(values: Tensor, wanted: Tensor, top: float) -> Tensor:
    """What to add to each row of values so that, clipped to 0..top, it has the mean that is wanted.

    Args:
        values: [C, n].
        wanted: [C], from 0 to `top`.
        top: positive.

    >>> shift_for_mean(torch.tensor([[-1.0, 1.0]]), torch.tensor([1.0]), 10.0).round(decimals=4)  # 0 and 2
    tensor([1.])
    """
    low, high = -values.amax(1).clamp_min(0), top - values.amin(1)  # all at 0, all at the top
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        less = (values + middle[:, None]).clamp(0, top).mean(1) < wanted
        low, high = torch.where(less, middle, low), torch.where(less, high, middle)
    return (low + high) / 2
