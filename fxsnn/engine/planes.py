"""How spikes lie in memory for the CPU engine, and where a window finds its inputs there.

A plane holds one bit for each of some channels at every place of the maps of several images, a byte a place: row after
row, image after image. Between rows and between images lie places without spikes, wide enough for the padding of the
layers that read the plane; so an input of a window is always at the same distance from its output, and the end of one
row is the padding of the next.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Pair = tuple[int, int]


def rounded_up(places: int, lanes: int) -> int:
    """The next multiple of the length of a run."""
    return -(-places // lanes) * lanes


@dataclass(frozen=True)
class Window:
    """The geometry of a convolution or a pooling; each pair is (vertical, horizontal).

    Attributes:
        kernel: size.
        stride: distance of neighbouring outputs in the input.
        before: padding above and left.
        behind: padding below and right.
        dilation: distance of neighbouring taps.
        ceil: a last window that reaches beyond the padding counts, if it begins before that.
    """

    kernel: Pair
    stride: Pair = (1, 1)
    before: Pair = (0, 0)
    behind: Pair = (0, 0)
    dilation: Pair = (1, 1)
    ceil: bool = False

    def output(self, size: Pair) -> Pair:
        """Height and width of the output for those of the input."""
        height, width = (self._along(axis, size[axis]) for axis in (0, 1))
        return height, width

    def reaching(self, size: Pair) -> Window:
        """The same, with padding behind maps of that size up to where the last output reaches."""
        reach = [
            (self.output(size)[axis] - 1) * self.stride[axis] + self.dilation[axis] * (self.kernel[axis] - 1)
            for axis in (0, 1)
        ]
        down, across = (max(self.behind[axis], reach[axis] - self.before[axis] - size[axis] + 1) for axis in (0, 1))
        return replace(self, behind=(down, across))

    def _along(self, axis: int, size: int) -> int:
        stride = self.stride[axis]
        reach = self.dilation[axis] * (self.kernel[axis] - 1)
        room = size + self.before[axis] + self.behind[axis] - reach - 1
        more = self.ceil and room % stride and (room // stride + 1) * stride < size + self.before[axis]
        return room // stride + 1 + bool(more)


@dataclass(frozen=True)
class Grid:
    """The layout of a plane.

    Attributes:
        size: height and width of a map.
        pitch: rows from one image to the next, and places from one row to the next.
        images: number of images.
        lanes: places of a run, which are computed together.
        before: empty places in front.
        behind: empty places at the end.
    """

    size: Pair
    pitch: Pair
    images: int
    lanes: int
    before: int = 0
    behind: int = 0

    @property
    def image_places(self) -> int:
        """Places from one image to the next."""
        return self.pitch[0] * self.pitch[1]

    @property
    def computed(self) -> int:
        """Places between `before` and `behind`, whole runs of them."""
        return rounded_up(self.images * self.image_places, self.lanes)

    @property
    def runs(self) -> int:
        """Runs of places up to the last neuron."""
        last = ((self.images - 1) * self.pitch[0] + self.size[0] - 1) * self.pitch[1] + self.size[1] - 1
        return last // self.lanes + 1

    @property
    def length(self) -> int:
        """Places of the whole plane."""
        return self.before + self.computed + self.behind

    def places(self) -> NDArray[np.int64]:
        """The place of every neuron of a channel, [images, height, width]."""
        height, width = self.size
        image, row, column = np.ogrid[: self.images, :height, :width]
        places: NDArray[np.int64] = (image * self.pitch[0] + row) * self.pitch[1] + column + self.before
        return places

    def mask(self) -> NDArray[np.uint8]:
        """255 at each computed place that is a neuron's, 0 elsewhere."""
        mask = np.zeros(self.length, np.uint8)
        mask[self.places()] = 255
        return mask[self.before : self.before + self.computed]

    def holding(self, size: Pair) -> Grid:
        """The same layout for maps of another size."""
        return replace(self, size=size)


def shared_grid(sizes: list[Pair], readers: list[tuple[Pair, Window]], images: int, lanes: int) -> Grid:
    """The tightest layout for maps that have to share one.

    Args:
        sizes: height and width of each.
        readers: what reads them with windows: the size of the map that is read, and the window.
        images: number of images.
        lanes: places of a run.

    Returns:
        A grid that holds maps of the first size.
    """
    rows, columns = (
        max(
            [size[axis] for size in sizes]
            + [size[axis] + max(window.before[axis], window.behind[axis]) for size, window in readers]
        )
        for axis in (0, 1)
    )
    before = [window.before[0] * columns + window.before[1] for _, window in readers]
    behind = [
        window.dilation[0] * (window.kernel[0] - 1) * columns + window.dilation[1] * (window.kernel[1] - 1)
        for _, window in readers
    ]
    empty = (rounded_up(max(places, default=0), lanes) for places in (before, behind))
    return Grid(sizes[0], (rows, columns), images, lanes, *empty)


def tap_distances(window: Window, taps: NDArray[np.int64], pitch: Pair) -> NDArray[np.int64]:
    """How far each tap [taps, 2] lies from the output; with a stride, from where its taps are counted."""
    rows = taps[:, 0] * window.dilation[0] - window.before[0]
    columns = taps[:, 1] * window.dilation[1] - window.before[1]
    return rows * pitch[1] + columns


@dataclass(frozen=True, eq=False)
class Phases:
    """How a convolution with a stride becomes one without: its input is split into every stride-th row and column.

    Attributes:
        phases: the (row, column) remainders that taps fall on.
        size: height and width of each part.
        phase: int64 [height, width of the kernel], which of `phases` a tap reads.
        window: the taps' window over the parts.
        tap: int64 [height, width of the kernel, 2], row and column of the tap in that window.
    """

    phases: list[Pair]
    size: Pair
    phase: NDArray[np.int64]
    window: Window
    tap: NDArray[np.int64]


def phases_of(window: Window, size: Pair) -> Phases:
    """Split the input of a window with a stride; the parts include the padding."""
    reach = [np.arange(window.kernel[axis]) * window.dilation[axis] for axis in (0, 1)]
    remainders = [reach[axis] % window.stride[axis] for axis in (0, 1)]
    phases = sorted({(int(row), int(column)) for row in remainders[0] for column in remainders[1]})
    phase = np.array([[phases.index((int(row), int(column))) for column in remainders[1]] for row in remainders[0]])
    steps = [reach[axis] // window.stride[axis] for axis in (0, 1)]
    tap = np.stack(np.meshgrid(steps[0], steps[1], indexing="ij"), axis=-1)
    output = window.output(size)
    height, width = (output[axis] + int(steps[axis].max()) for axis in (0, 1))
    inner = Window((int(steps[0].max()) + 1, int(steps[1].max()) + 1))
    return Phases(phases, (height, width), phase, inner, tap)


def phase_rows(phases: Phases, window: Window, source: Grid, target: Grid) -> NDArray[np.int64]:
    """Which rows of the input make up the parts.

    Args:
        phases: the parts.
        window: the window with its stride.
        source: layout of the input.
        target: layout of the parts.

    Returns:
        [rows, 4]: place of a row's first spike in the input, its part, that spike's place in the part, and how many
        spikes there are, each `window.stride[1]` places from the one before in the input. All other places of a part
        have none.
    """
    (height, width), (down, across) = source.size, window.stride
    found = []
    for part, (vertical, horizontal) in enumerate(phases.phases):
        ys = np.arange(phases.size[0]) * down + vertical - window.before[0]
        xs = np.arange(phases.size[1]) * across + horizontal - window.before[1]
        inside = np.flatnonzero((xs >= 0) & (xs < width))
        for row in np.flatnonzero((ys >= 0) & (ys < height)) if len(inside) else ():
            for image in range(source.images):
                origin = (image * source.pitch[0] + ys[row]) * source.pitch[1] + xs[inside[0]] + source.before
                place = (image * target.pitch[0] + row) * target.pitch[1] + inside[0] + target.before
                found.append((origin, part, place, len(inside)))
    return np.array(found, np.int64).reshape(-1, 4)
