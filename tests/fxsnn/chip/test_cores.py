"""The estimate of cores against counting by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fxsnn.chip import Read, Shape, estimated_cores

CORE = (1024, 1024)
Pair = tuple[int, int]


def plain(
    out_size: Pair,
    kernel: Pair,
    stride: Pair,
    dilation: Pair,
    in_channels: int,
    out_channels: int,
    groups: int,
    bits: int,
) -> Shape:
    """A layer of one input; channels are those of a group."""
    return Shape(out_size, out_channels * groups, (Read(kernel, stride, dilation, in_channels, groups, bits),))


def read(kernel: Pair, in_channels: int, groups: int, bits: int) -> Read:
    return Read(kernel, (1, 1), (1, 1), in_channels, groups, bits)


@pytest.mark.parametrize(
    ("shape", "cores"),
    [
        # 16 inputs x 2 bits = 32 rows, 10 neurons: one core.
        (plain((1, 1), (1, 1), (1, 1), (1, 1), 16, 10, 1, 2), 1),
        # 600 inputs x 4 bits = 2,400 rows: three cores for the same neurons.
        (plain((1, 1), (1, 1), (1, 1), (1, 1), 600, 10, 1, 4), 3),
        # 10 inputs, 2,000 neurons: two cores of outputs.
        (plain((1, 1), (1, 1), (1, 1), (1, 1), 10, 2000, 1, 1), 2),
        # both: 3 x 2.
        (plain((1, 1), (1, 1), (1, 1), (1, 1), 600, 2000, 1, 4), 6),
        # 3x3, 28 channels, 4 bits: 1,008 rows, a core holds one position of the 14x14 map.
        (plain((14, 14), (3, 3), (1, 1), (1, 1), 28, 48, 1, 4), 196),
        # 3x3, 1 channel, 1 bit on 8x8: a tile of 8x8 reads 10x10 = 100 rows and has 64 neurons.
        (plain((8, 8), (3, 3), (1, 1), (1, 1), 1, 1, 1, 1), 1),
        # the same with 32 output channels has 2,048 neurons: two cores.
        (plain((8, 8), (3, 3), (1, 1), (1, 1), 1, 32, 1, 1), 2),
        # 2x2 pooling of 28 maps of 28x28: 21,952 inputs on 1,024 rows, 22 cores at least. Tiles of 7x7 outputs read
        # 196 rows, 5 maps fit a core: 4 tiles x ceil(28 / 5) = 24.
        (plain((14, 14), (2, 2), (2, 2), (1, 1), 1, 1, 28, 1), 24),
        # dilation: still 1,008 rows for a position, and positions that share no input do not share a core.
        (plain((8, 8), (3, 3), (1, 1), (2, 2), 28, 28, 1, 4), 64),
        # 1x1 with stride 2: 64 x 4 = 256 rows for a position whatever the stride, four positions a core.
        (plain((8, 8), (1, 1), (2, 2), (1, 1), 64, 64, 1, 4), 16),
        # neurons too large for a core, 200 x 9 = 1,800 rows: 2 cores x 4 positions x 3 groups.
        (plain((2, 2), (3, 3), (1, 1), (1, 1), 200, 5, 3, 1), 24),
        # a sum: two positions side by side read 3x4 x 28 x 2 bits = 672 rows, 2 x 16 x 4 = 128, and 2 x 32 spikes as
        # they are: 864; three, or four, do not fit.
        (Shape((8, 8), 32, (read((3, 3), 28, 1, 2), read((1, 1), 16, 1, 4), read((1, 1), 1, 32, 1))), 32),
        # spikes as they are twice, without weights: a channel of a tile of 8x8 has 64 neurons and 128 rows; 8 a core.
        (Shape((8, 8), 32, (read((1, 1), 1, 32, 1), read((1, 1), 1, 32, 1))), 4),
        # two groups of a grouped convolution share no rows, nor do the halves of what is added to them.
        (Shape((1, 1), 8, (read((1, 1), 150, 2, 4), read((1, 1), 1, 8, 1))), 2),
    ],
)
def test_layers_counted_by_hand(shape: Shape, cores: int) -> None:
    assert estimated_cores(shape, *CORE) == cores


SHAPES = st.builds(
    plain,
    out_size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    dilation=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    in_channels=st.integers(1, 60),
    out_channels=st.integers(1, 300),
    groups=st.integers(1, 4),
    bits=st.integers(1, 4),
)


@given(SHAPES, st.integers(16, 600), st.integers(16, 600))
def test_there_are_never_fewer_than_the_neurons_or_their_inputs_need(shape: Shape, inputs: int, outputs: int) -> None:
    cores = estimated_cores(shape, inputs, outputs)
    neurons = shape.out_size[0] * shape.out_size[1] * shape.out_channels
    assert cores * outputs >= neurons
    assert cores * inputs >= shape.rows(1, 1)


@given(SHAPES, st.integers(16, 600), st.integers(16, 600))
def test_larger_cores_never_make_it_more(shape: Shape, inputs: int, outputs: int) -> None:
    assert estimated_cores(shape, 2 * inputs, 2 * outputs) <= estimated_cores(shape, inputs, outputs)
