"""How many dimensions images have, and the way from signals to the maps of the layers and back."""

from __future__ import annotations

from dataclasses import dataclass

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
    """

    channels: int | None = None
    rank: int | None = None
    size: tuple[int, ...] | None = None

    def __str__(self) -> str:
        if self.size is not None:
            return f"[{', '.join(['N', *map(str, self.size)])}]"
        if self.rank is None:
            return "[N, C, H, W], [N, C, L] or [N, F]"
        first, *rest = _SIDES[self.rank]
        return f"[{', '.join(['N', first if self.channels is None else str(self.channels), *rest])}]"

    @property
    def unit(self) -> str:
        """What the numbers of one place are called."""
        return "features" if self.rank == 2 else "channels"

    @property
    def sizes(self) -> str:
        """What sizes of an image are made of, in words."""
        return "; ".join(_SIZES[rank] for rank in sorted(RANKS, reverse=True) if self.takes(rank))

    def takes(self, rank: int) -> bool:
        """Whether images may have so many dimensions, that of the batch among them."""
        return rank in RANKS if self.rank is None else rank == self.rank

    def of_layers(self, images: Tensor) -> Tensor:
        """What layers read: signals [N, C, L] as maps [N, C, 1, L], all else as it is."""
        return images.unsqueeze(2) if self.rank == 3 else images

    def size_of_layers(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """The same of a size without the batch."""
        return (size[0], 1, *size[1:]) if self.rank == 3 else size


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
                f"images have shape {[len(images), *shape]}; expected {form}: windows follow from that size"
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
