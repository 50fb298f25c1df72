"""Layers that put numbers elsewhere and compute nothing: spikes pass them as they are, and no neurons are needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxsnn.layers.padded import Sides

_SQUARE = 12
"""Side of maps on which channels are tried: what is taken to blocks of two or three places fits."""


class Wiring(nn.Module):
    """A layer each of whose outputs is one of the numbers that it reads, always the same one, or zero.

    It stands in the network before conversion and after it alike, and is told apart by its class alone: what it does to
    maps whose numbers are all different says where each of its outputs comes from.

    Attributes:
        pads: whether some of its outputs may be zero whatever it reads.
    """

    pads = False

    def of_channels(self, values: Sequence[Tensor]) -> Tensor:
        """What it makes of values of the channels that it reads, [C] each: one for each channel that it gives."""
        maps = (value.view(1, -1, 1, 1).expand(-1, -1, _SQUARE, _SQUARE) for value in values)
        given: Tensor = self(*maps)[0].flatten(1)
        # Padding is zero at some places, and what does not vary is the same at all others.
        return given.gather(1, given.abs().argmax(1, keepdim=True)).squeeze(1)


class Concat(Wiring):
    """Channels of several inputs behind one another."""

    def forward(self, *inputs: Tensor) -> Tensor:
        """[N, C_i, ...] to [N, Σ C_i, ...]."""
        return torch.cat(inputs, 1)


class Channels(Wiring):
    """Some of the channels, in any order, each as often as it is named: slices, splits, shuffles, flips, padding.

    Args:
        index: int64 [C'], which of the channels; -1: zeros.
    """

    index: Tensor

    def __init__(self, index: Tensor) -> None:
        super().__init__()
        self.register_buffer("index", index)
        self.pads = not index.is_meta and bool((index < 0).any())

    def of_channels(self, values: Sequence[Tensor]) -> Tensor:
        """Of channels of zeros it is as good as any other: they never spike."""
        return values[0].index_select(0, self.index.clamp(min=0))

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, ...] to [N, C', ...]."""
        if not self.pads:
            return x.index_select(1, self.index)
        zero = (self.index < 0).view(-1, *[1] * (x.dim() - 2))
        return x.index_select(1, self.index.clamp(min=0)).masked_fill(zero, 0)

    def extra_repr(self) -> str:
        """Shown in dumps."""
        if self.index.is_meta or not len(self.index):
            return f"{len(self.index)} channels"
        first, steps = int(self.index[0]), self.index.diff().unique().tolist()
        if steps in ([], [1]):
            return f"{first}..{int(self.index[-1])}"
        return f"{len(self.index)} channels, {', '.join(map(str, self.index[:4].tolist()))}, ..."


class WithinChannels(Wiring):
    """Wiring that puts each channel elsewhere by itself: all of its outputs are of the channel of their number."""

    def of_channels(self, values: Sequence[Tensor]) -> Tensor:
        """See `Wiring`."""
        (value,) = values
        return value


class FlattenMaps(Wiring, nn.Flatten):
    """A flatten of maps of a known size: as many features of each channel as these have places.

    Behind it, wiring knows which feature is of which channel. What only layers with weights read is a plain flatten.

    Args:
        places: of a map.
    """

    def __init__(self, places: int) -> None:
        super().__init__()
        self.places = places

    def of_channels(self, values: Sequence[Tensor]) -> Tensor:
        """See `Wiring`: what it makes of the values of channels, one for each feature."""
        (value,) = values
        return value.repeat_interleave(self.places)

    def extra_repr(self) -> str:
        """Shown in dumps."""
        return f"{self.places} places"


class Places(WithinChannels):
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


class Select(WithinChannels):
    """Any rows and columns of maps of one size, each as often as it is named: reflections, edges, zeros around.

    Args:
        rows: which row each is; -1: zeros.
        columns: the same of columns.
    """

    def __init__(self, rows: Sequence[int], columns: Sequence[int]) -> None:
        super().__init__()
        self.rows, self.columns = tuple(rows), tuple(columns)
        self.pads = -1 in self.rows or -1 in self.columns

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, C, H', W']."""
        for axis, places in ((2, self.rows), (3, self.columns)):
            if max(places) >= x.shape[axis]:
                raise IndexError(f"it takes place {max(places)} of maps of {x.shape[axis]}, from 0 on")
            index = torch.tensor(places, device=x.device)
            x = x.index_select(axis, index.clamp(min=0))
            if -1 in places:
                shape = [-1 if one == axis else 1 for one in range(4)]
                x = x.masked_fill((index < 0).view(shape), 0)
        return x

    def extra_repr(self) -> str:
        """Shown in dumps."""
        return ", ".join(
            f"{len(places)} {name} {', '.join(map(str, places[:3]))}, ..."
            for name, places in (("rows", self.rows), ("columns", self.columns))
        )


class Repeat(WithinChannels):
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


class Spread(WithinChannels):
    """Maps with zeros between their places and around them: what a transposed convolution reads.

    Args:
        down: from one row to the next.
        across: from one column to the next.
        sides: zeros above, below, left and right; where it is negative, so many rows or columns less.
    """

    def __init__(self, down: int, across: int, sides: Sides = (0, 0, 0, 0)) -> None:
        super().__init__()
        self.down, self.across, self.sides = down, across, sides
        self.pads = max(down, across) > 1 or max(sides) > 0

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, C, (H - 1) * down + 1 + above + below, (W - 1) * across + 1 + left + right]."""
        top, bottom, left, right = self.sides
        images, channels, height, width = x.shape
        apart = F.pad(x.view(images, channels, height, 1, width, 1), (0, self.across - 1, 0, 0, 0, self.down - 1))
        apart = apart.reshape(images, channels, height * self.down, width * self.across)
        return F.pad(apart, (left, right + 1 - self.across, top, bottom + 1 - self.down))

    def extra_repr(self) -> str:
        """Shown in dumps."""
        return f"{self.down} x {self.across}{f', sides={self.sides}' if any(self.sides) else ''}"


@dataclass(frozen=True)
class Taps:
    """The windows of a pooling along one axis.

    Attributes:
        kernel: places of a window.
        stride: from one window to the next.
        padding: zeros in front and behind.
        dilation: from one place of a window to the next.
        ceil: a last window that reaches beyond the padding counts, if it begins inside.
    """

    kernel: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    ceil: bool = False

    def windows(self, size: int) -> int:
        """How many there are on so many places (PyTorch's formula)."""
        room = size + 2 * self.padding - self.dilation * (self.kernel - 1) - 1
        if not self.ceil:
            return room // self.stride + 1
        count = -(-room // self.stride) + 1
        return count - int((count - 1) * self.stride >= size + self.padding)  # of a program in tracing: a tensor


class Tap(WithinChannels):
    """The same place of every window, zero where it is padding.

    Args:
        rows: windows down.
        columns: windows across.
        row: which place of each window, downwards.
        column: the same across.
    """

    def __init__(self, rows: Taps, columns: Taps, row: int, column: int) -> None:
        super().__init__()
        self.rows, self.columns, self.row, self.column = rows, columns, row, column
        self.pads = any(taps.padding or taps.ceil for taps in (rows, columns))

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, C, windows down, windows across]."""
        down, across = self.rows.windows(x.shape[2]), self.columns.windows(x.shape[3])
        y, x_ = self.row * self.rows.dilation, self.column * self.columns.dilation
        bottom, right = (
            max(0, first + (count - 1) * taps.stride + 1 - size - taps.padding)
            for first, count, taps, size in ((y, down, self.rows, x.shape[2]), (x_, across, self.columns, x.shape[3]))
        )
        padded = F.pad(x, (self.columns.padding, right, self.rows.padding, bottom))
        rows = slice(y, y + (down - 1) * self.rows.stride + 1, self.rows.stride)
        return padded[:, :, rows, x_ : x_ + (across - 1) * self.columns.stride + 1 : self.columns.stride]

    def extra_repr(self) -> str:
        """Shown in dumps."""
        kernel, stride = (self.rows.kernel, self.columns.kernel), (self.rows.stride, self.columns.stride)
        return f"({self.row}, {self.column}) of {kernel[0]}x{kernel[1]}, stride={stride}"


class PixelShuffle(Wiring):
    """Groups of channels side by side in maps that are larger by a factor, or back.

    Args:
        factor: of both sides.
        back: from maps to channels, as `torch.nn.PixelUnshuffle`.
    """

    def __init__(self, factor: int, *, back: bool = False) -> None:
        super().__init__()
        self.factor, self.back = factor, back

    def channels(self, before: int) -> int:
        """How many channels it gives of so many."""
        return before * self.factor**2 if self.back else before // self.factor**2

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, C / factor², H * factor, W * factor], or back."""
        return F.pixel_unshuffle(x, self.factor) if self.back else F.pixel_shuffle(x, self.factor)

    def extra_repr(self) -> str:
        """Shown in dumps."""
        return f"{self.factor}{', back' if self.back else ''}"


class Turn(WithinChannels):
    """Maps with their rows or columns in the other order, or with rows for columns.

    Args:
        rows: the last row comes first.
        columns: the last column comes first.
        transposed: rows become columns, at last.
    """

    def __init__(self, rows: bool, columns: bool, transposed: bool) -> None:
        super().__init__()
        self.rows, self.columns, self.transposed = rows, columns, transposed

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, C, H, W], or [N, C, W, H]."""
        turned = x.flip([axis for axis, wanted in ((2, self.rows), (3, self.columns)) if wanted])
        return turned.transpose(2, 3) if self.transposed else turned

    def extra_repr(self) -> str:
        """Shown in dumps."""
        names = (("rows", self.rows), ("columns", self.columns), ("transposed", self.transposed))
        return ", ".join(name for name, wanted in names if wanted)
