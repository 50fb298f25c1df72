"""A bounded number of values of each channel of a layer, and what suits them."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from fxsnn.processes import in_turn, numbered

_VALUES = 1 << 7
"""So many values of a channel are kept of an image."""
_VALUES_IN_ALL = 1 << 15
_HALVINGS = 50
"""Of an interval of doubles, down to about the last of their 53 digits; more would change nothing."""


def some_of(own: Iterable[Tensor]) -> Tensor:
    """Values of each channel, [C, n], of batches [N, C, ...]: all of them, or of many a random part, the same twice.

    Args:
        own: this process's batches; what is given is of those of all processes.
    """
    sample = Sample()
    for part in in_turn(numbered(own), lambda one: some_of_batch(one[1], one[0])):
        sample.add(part)
    return sample.values()


def some_of_batch(batch: Tensor, number: int) -> Tensor:
    """Values of each channel, [C, n], of a batch [N, C, ...]: a bounded number of every image.

    Args:
        batch: whole.
        number: of the batch; it decides which values are taken.
    """
    channels = batch.double().transpose(0, 1).flatten(1)
    generator = torch.Generator().manual_seed(number)
    return _some(channels, max(1, min(_VALUES * len(batch), channels.shape[1])), generator)


class Sample:
    """Values of each channel of one batch after the other, of each an equal share."""

    def __init__(self) -> None:
        self._generator = torch.Generator().manual_seed(0)
        self._kept: list[Tensor] = []
        self._share = 1.0

    def add(self, part: Tensor) -> None:
        """Add what is taken of a batch, see `some_of_batch`, or as large a share of it as of those before."""
        self._kept.append(_some(part, max(1, round(self._share * part.shape[1])), self._generator))
        if sum(part.shape[1] for part in self._kept) > _VALUES_IN_ALL:  # from now on, and of what there is, only half
            self._kept = [_some(part, (part.shape[1] + 1) // 2, self._generator) for part in self._kept]
            self._share /= 2

    def values(self) -> Tensor:
        """All of them, [C, n]."""
        return torch.cat(self._kept, 1)


def _some(channels: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """So many columns, chosen at random; all of them as they are."""
    if count >= channels.shape[1]:
        return channels
    chosen = torch.randperm(channels.shape[1], generator=generator)[:count]
    return channels[:, chosen.to(channels.device)]


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
