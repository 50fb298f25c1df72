"""How many dimensions images have, those that move among them, and the way from signals to maps and back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fxsnn.errors import DataError

RANKS = (2, 3, 4)
"""Dimensions that images may have, that of the batch among them."""

_SIDES = {2: ("F",), 3: ("C", "L"), 4: ("C", "H", "W")}
_SIZES = {
    2: "features, such as (64,)",
    3: "channels and length, such as (2, 1000)",
    4: "channels, height and width, such as (3, 32, 32)",
}


@dataclass(frozen=True)
class ImageForm:
    """What the images of a network look like.

    Attributes:
        channels: of images and signals, or the features of vectors; `None`: any number.
        rank: 4 for images [N, C, H, W], 3 for signals [N, C, L], 2 for vectors [N, F]; `None`: any of these, as of a
            network that begins with a flatten.
        size: of an image without the batch, where the network is one for images of that size only.
        frames: of images that change over time, [N, T, ...], how many each has; 0: any number. `None`: they do not.
    """

    channels: int | None = None
    rank: int | None = None
    size: tuple[int, ...] | None = None
    frames: int | None = None

    def __str__(self) -> str:
        before = ["N"] if self.frames is None else ["N", "T" if self.frames == 0 else str(self.frames)]
        if self.size is not None:
            return f"[{', '.join([*before, *map(str, self.size)])}]"
        sides = [_SIDES[rank] for rank in sorted(RANKS, reverse=True) if self.rank in (None, rank)]
        first = [one[0] if self.channels is None else str(self.channels) for one in sides]
        forms = [f"[{', '.join([*before, one, *rest])}]" for one, (_, *rest) in zip(first, sides, strict=True)]
        return " or ".join([", ".join(forms[:-1]), forms[-1]] if len(forms) > 1 else forms)

    @property
    def unit(self) -> str:
        """What the numbers of one place are called."""
        return "features" if self.rank == 2 else "channels"

    @property
    def sizes(self) -> str:
        """What sizes of an image are made of, in words."""
        return "; ".join(_SIZES[rank] for rank in sorted(RANKS, reverse=True) if self.rank in (None, rank))

    def takes(self, rank: int) -> bool:
        """Whether images may have so many dimensions, those of the batch and of time among them."""
        still = rank - self.in_front + 1
        return still in RANKS if self.rank is None else still == self.rank

    @property
    def in_front(self) -> int:
        """Dimensions in front of the channels: that of the batch, and that of time if there is one."""
        return 1 if self.frames is None else 2

    def size_of(self, images: Tensor) -> tuple[int, ...]:
        """Of an image without batch and time."""
        return tuple(images.shape[self.in_front :])

    def stills(self, images: Tensor) -> Tensor:
        """Every frame as an image of its own, [T * N, ...], those of the first step first; still images as they are."""
        return images if self.frames is None else images.transpose(0, 1).flatten(0, 1)

    def with_time(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """The size of an image without the batch, but with its frames."""
        return size if self.frames is None else (self.frames, *size)

    def lasting(self, images: Tensor) -> Tensor:
        """Images of this form, such as a sample, with as many frames as are read: the first ones, or all of them over
        again.
        """
        if not self.frames:
            return images
        times = -(-self.frames // images.shape[1])
        return torch.cat([images] * times, dim=1)[:, : self.frames]

    def of_layers(self, images: Tensor) -> Tensor:
        """What layers read: signals [N, C, L] as maps [N, C, 1, L], all else as it is."""
        return images.unsqueeze(2) if self.rank == 3 else images

    def size_of_layers(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """The same of a size without the batch."""
        return (size[0], 1, *size[1:]) if self.rank == 3 else size


class AverageFrames(nn.Module):
    """The mean of all frames of an image that changes over time: what a network of rates makes of it."""

    def forward(self, images: Tensor) -> Tensor:
        """[N, T, ...] to [N, ...]."""
        return images.mean(1)


class FixedSize(nn.Module):
    """Images of one size, and no others: something behind it follows from that size, such as the window of a pooling.

    Args:
        size: of an image without the batch.
    """

    def __init__(self, size: tuple[int, ...]) -> None:
        super().__init__()
        self.size = size

    def forward(self, images: Tensor) -> Tensor:
        """The images.

        Raises:
            DataError: they have another size.
        """
        if (shape := tuple(map(int, images.shape[1:]))) != self.size:
            form = ImageForm(size=self.size)
            raise DataError(
                f"images have shape {[len(images), *shape]}; expected {form}: what the network does follows from "
                "that size"
            )
        return images

    def extra_repr(self) -> str:
        """Shown in dumps."""
        return f"{self.size}"


class Lift(nn.Module):
    """Signals [N, C, L] as maps of one row, [N, C, 1, L]."""

    def forward(self, signals: Tensor) -> Tensor:
        """See above."""
        return signals.unsqueeze(2)


class Lower(nn.Module):
    """Maps of one row [N, C, 1, L] as signals again, [N, C, L]."""

    def forward(self, maps: Tensor) -> Tensor:
        """See above."""
        return maps.squeeze(2)
