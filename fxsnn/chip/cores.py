"""How many cores a layer would take: an estimate, from the number of rows and neurons that a core has. No torch here.

A core has so many input rows and so many neurons. An input takes as many rows as weights have bits (that is the rule
behind the channel limits of Hardware v1.0), so a neuron's fan-in times the bits must fit the rows; neurons of a core
share its rows. The estimate cuts the output map into equal tiles, each with the part of the input map that it reads,
and takes the tile size that needs the fewest cores. Chips have further rules (routing, delays), which it does not know.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

FORMULA = (
    "an output tile of h x w positions reads the inputs under its windows, each once, takes bits rows for each and has "
    "h*w*channels neurons; the tile size with the fewest cores counts"
)


@dataclass(frozen=True)
class Shape:
    """The size of a layer.

    Attributes:
        out_size: (height, width) of its output map; (1, 1) for a fully connected layer.
        kernel: (height, width) of what a neuron reads.
        stride: (vertical, horizontal).
        dilation: (vertical, horizontal).
        in_channels: per group, or input features.
        out_channels: per group, or output features.
        groups: groups; a pooling has as many as channels.
        bits: weight bits; 1 for a pooling.
    """

    out_size: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    in_channels: int
    out_channels: int
    groups: int
    bits: int

    def rows(self, height: int, width: int) -> int:
        """Input rows that an output tile of `height` x `width` positions of one group takes."""
        tall, wide = (self._read(axis, count) for axis, count in enumerate((height, width)))
        return tall * wide * self.in_channels * self.bits

    def _read(self, axis: int, count: int) -> int:
        """Places along an axis that so many positions read."""
        stride, dilation = self.stride[axis], self.dilation[axis]
        return len({i * stride + j * dilation for i in range(count) for j in range(self.kernel[axis])})


def estimated_cores(shape: Shape, inputs: int, outputs: int) -> int:
    """The number of cores.

    Args:
        shape: of the layer.
        inputs: input rows of a core.
        outputs: neurons of a core.

    >>> estimated_cores(Shape((1, 1), (1, 1), (1, 1), (1, 1), 4096, 100, 1, 2), 1024, 1024)  # 8,192 rows
    8
    >>> estimated_cores(Shape((32, 32), (3, 3), (1, 1), (1, 1), 56, 56, 1, 2), 1024, 1024)  # a core holds a position
    1024
    """
    height, width = shape.out_size
    if shape.rows(1, 1) > inputs:  # partial sums: several cores for the same neurons
        return height * width * shape.groups * -(-shape.rows(1, 1) // inputs) * -(-shape.out_channels // outputs)
    return min(
        _with_tiles(shape, tall, wide, inputs, outputs)
        for tall, wide in product(range(1, height + 1), range(1, width + 1))
        if shape.rows(tall, wide) <= inputs
    )


def _with_tiles(shape: Shape, tall: int, wide: int, inputs: int, outputs: int) -> int:
    tiles = -(-shape.out_size[0] // tall) * -(-shape.out_size[1] // wide)
    neurons = tall * wide * shape.out_channels
    if neurons > outputs:
        return tiles * shape.groups * -(-neurons // outputs)
    together = min(inputs // shape.rows(tall, wide), outputs // neurons)  # groups on one core
    return tiles * -(-shape.groups // together)
