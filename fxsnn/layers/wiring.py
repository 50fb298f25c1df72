"""Layers that put numbers elsewhere and compute nothing: spikes pass them as they are, and no neurons are needed."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Wiring(nn.Module):
    """A layer each of whose outputs is one of the numbers that it reads, always the same one, or zero.

    It stands in the network before conversion and after it alike, and is told apart by its class alone: what it does to
    maps whose numbers are all different says where each of its outputs comes from.
    """


class Concat(Wiring):
    """Channels of several inputs behind one another."""

    def forward(self, *inputs: Tensor) -> Tensor:
        """[N, C_i, ...] to [N, Σ C_i, ...]."""
        return torch.cat(inputs, 1)


class Channels(Wiring):
    """Some of the channels, in any order, each as often as it is named: slices, splits, shuffles, flips.

    Args:
        index: int64 [C'], which of the channels.
    """

    index: Tensor

    def __init__(self, index: Tensor) -> None:
        super().__init__()
        self.register_buffer("index", index)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, ...] to [N, C', ...]."""
        return x.index_select(1, self.index)

    def extra_repr(self) -> str:
        """Shown in dumps."""
        if self.index.is_meta or not len(self.index):
            return f"{len(self.index)} channels"
        first, steps = int(self.index[0]), self.index.diff().unique().tolist()
        if steps in ([], [1]):
            return f"{first}..{int(self.index[-1])}"
        return f"{len(self.index)} channels, {', '.join(map(str, self.index[:4].tolist()))}, ..."


class Places(Wiring):
    """Some of the rows and columns of maps: crops, every second one.

    Args:
        rows: first row, and the distance to the next one.
        columns: the same of columns.
    """

    def __init__(self, rows: tuple[int, int], columns: tuple[int, int]) -> None:
        super().__init__()
        self.rows, self.columns = rows, columns

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, C, H', W']."""
        (top, down), (left, across) = self.rows, self.columns
        return x[:, :, top::down, left::across]

    def extra_repr(self) -> str:
        """Shown in dumps."""
        return f"rows {self.rows[0]}::{self.rows[1]}, columns {self.columns[0]}::{self.columns[1]}"


class Repeat(Wiring):
    """Every place of maps several times: upsampling by whole factors, to the nearest neighbour.

    Args:
        down: how often each row.
        across: how often each column.
    """

    def __init__(self, down: int, across: int) -> None:
        super().__init__()
        self.down, self.across = down, across

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, C, H * down, W * across]."""
        return x.repeat_interleave(self.down, 2).repeat_interleave(self.across, 3)

    def extra_repr(self) -> str:
        """Shown in dumps."""
        return f"{self.down} x {self.across}"
