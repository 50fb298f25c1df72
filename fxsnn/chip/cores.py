"""How many cores a layer would take: an estimate, from the number of rows and neurons that a core has. No torch here.

A core has so many input rows and so many neurons. An input takes as many rows as weights have bits (that is the rule
behind the channel limits of Hardware v1.0), so a neuron's fan-in times the bits must fit the rows; neurons of a core
share its rows. The estimate cuts the output map into equal tiles, each with the part of the input map that it reads,
and takes the tile size that needs the fewest cores. Chips have further rules (routing, delays), which it does not know.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import gcd

FORMULA = (
    "an output tile of h x w positions reads the inputs under its windows, each once, takes bits rows for each and has "
    "h*w*channels neurons; the tile size with the fewest cores counts"
)


@dataclass(frozen=True)
class Read:
    """One of the inputs of a layer; all but sums have one.

    Attributes:
        kernel: (height, width) of what a neuron reads.
        stride: (vertical, horizontal).
        dilation: (vertical, horizontal).
        in_channels: per group, or input features.
        groups: groups; a pooling, and spikes that a sum adds as they are, have as many as channels.
        bits: weight bits; 1 where all codes are 1.
    """

    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    in_channels: int
    groups: int
    bits: int

    def rows(self, height: int, width: int) -> int:
        """Input rows that an output tile of `height` x `width` positions of one group takes."""
        tall, wide = (self._places(axis, count) for axis, count in enumerate((height, width)))
        return tall * wide * self.in_channels * self.bits

    def _places(self, axis: int, count: int) -> int:
        """Places along an axis that so many positions read."""
        stride, dilation = self.stride[axis], self.dilation[axis]
        return len({i * stride + j * dilation for i in range(count) for j in range(self.kernel[axis])})


@dataclass(frozen=True)
class Shape:
    """The size of a layer.

    Attributes:
        out_size: (height, width) of its output map; (1, 1) for a fully connected layer.
        out_channels: of all groups, or output features.
        reads: its inputs, which share the rows of a core.
    """

    out_size: tuple[int, int]
    out_channels: int
    reads: tuple[Read, ...]

    @property
    def groups(self) -> int:
        """Groups of channels that read nothing in common."""
        return gcd(*(read.groups for read in self.reads))

    def rows(self, height: int, width: int) -> int:
        """Input rows that an output tile of `height` x `width` positions of one group takes, all inputs together."""
        return sum(read.groups // self.groups * read.rows(height, width) for read in self.reads)

    @property
    def channels(self) -> int:
        """Output channels of a group."""
        return self.out_channels // self.groups


def estimated_cores(shape: Shape, inputs: int, outputs: int) -> int:
    """The number of cores.

    Args:
        shape: of the layer.
        inputs: input rows of a core.
        outputs: neurons of a core.

    >>> features = Read((1, 1), (1, 1), (1, 1), in_channels=4096, groups=1, bits=2)
    >>> estimated_cores(Shape((1, 1), 100, (features,)), 1024, 1024)  # 8,192 rows
    8
    >>> maps = Read((3, 3), (1, 1), (1, 1), in_channels=56, groups=1, bits=2)
    >>> estimated_cores(Shape((32, 32), 56, (maps,)), 1024, 1024)  # a core holds a position
    1024
    """
    height, width = shape.out_size
    if shape.rows(1, 1) > inputs:  # partial sums: several cores for the same neurons
        return height * width * shape.groups * -(-shape.rows(1, 1) // inputs) * -(-shape.channels // outputs)
    return min(
        _with_tiles(shape, tall, wide, inputs, outputs)
        for tall, wide in product(range(1, height + 1), range(1, width + 1))
        if shape.rows(tall, wide) <= inputs
    )


def _with_tiles(shape: Shape, tall: int, wide: int, inputs: int, outputs: int) -> int:
    tiles = -(-shape.out_size[0] // tall) * -(-shape.out_size[1] // wide)
    neurons = tall * wide * shape.channels
    if neurons > outputs:
        return tiles * shape.groups * -(-neurons // outputs)
    together = min(inputs // shape.rows(tall, wide), outputs // neurons)  # groups on one core
    return tiles * -(-shape.groups // together)
