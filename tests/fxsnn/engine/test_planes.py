"""The layout of spikes: every window finds its inputs, and nothing else."""

from __future__ import annotations

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fxsnn.engine.planes import Grid, Window, phase_rows, phases_of, shared_grid, tap_distances

pairs = st.tuples(st.integers(1, 4), st.integers(1, 4))
paddings = st.tuples(st.integers(0, 2), st.integers(0, 2))


@st.composite
def windows(draw: st.DrawFn, stride: bool) -> tuple[Window, tuple[int, int]]:
    """A window and a size of map that it fits."""
    window = Window(
        draw(pairs),
        draw(pairs) if stride else (1, 1),
        draw(paddings),
        draw(paddings),
        draw(st.sampled_from([(1, 1), (2, 1)])),
    )
    size = draw(st.tuples(st.integers(1, 7), st.integers(1, 7)))
    assume(min(window.output(size)) >= 1)
    return window, size


def taps(window: Window) -> np.ndarray:
    return np.argwhere(np.ones(window.kernel))


def expected(window: Window, maps: np.ndarray) -> np.ndarray:
    """[taps, images, height, width]: what lies under each tap of each window over maps [images, height, width]."""
    pad = [(0, 0), *((window.before[axis], window.behind[axis]) for axis in (0, 1))]
    padded = np.pad(maps, pad)
    height, width = window.output((maps.shape[1], maps.shape[2]))
    found = []
    for row, column in taps(window) * window.dilation:
        down, across = window.stride
        found.append(
            padded[:, row : row + down * (height - 1) + 1 : down, column : column + across * (width - 1) + 1 : across]
        )
    return np.stack(found)


def plane_of(grid: Grid, maps: np.ndarray) -> np.ndarray:
    plane = np.zeros(grid.length, np.int64)
    plane[grid.places()] = maps
    return plane


@settings(deadline=None)
@given(windows(stride=False), st.integers(1, 3), st.sampled_from((64, 128)))
def test_an_input_lies_at_the_same_distance_from_every_output(
    given_: tuple[Window, tuple[int, int]], images: int, lanes: int
) -> None:
    window, size = given_
    maps = np.arange(1, images * size[0] * size[1] + 1).reshape(images, *size)
    grid = shared_grid([size, window.output(size)], [(size, window)], images, lanes)
    plane = plane_of(grid, maps)
    outputs = grid.holding(window.output(size)).places()
    distances = tap_distances(window, taps(window), grid.pitch)
    found = np.stack([plane[outputs + distance] for distance in distances])
    assert np.array_equal(found, expected(window, maps))


@settings(deadline=None)
@given(windows(stride=False), st.integers(1, 3), st.sampled_from((64, 128)))
def test_reading_a_whole_run_of_places_stays_inside_the_plane(
    given_: tuple[Window, tuple[int, int]], images: int, lanes: int
) -> None:
    window, size = given_
    grid = shared_grid([size, window.output(size)], [(size, window)], images, lanes)
    distances = tap_distances(window, taps(window), grid.pitch)
    assert grid.before + distances.min() >= 0
    assert grid.before + grid.computed + distances.max() <= grid.length


@settings(deadline=None)
@given(windows(stride=True), st.integers(1, 2), st.sampled_from((64, 128)))
def test_with_a_stride_the_parts_hold_what_the_taps_read(
    given_: tuple[Window, tuple[int, int]], images: int, lanes: int
) -> None:
    window, size = given_
    maps = np.arange(1, images * size[0] * size[1] + 1).reshape(images, *size)
    source = shared_grid([size], [], images, lanes)
    phases = phases_of(window, size)
    output = window.output(size)
    target = shared_grid([phases.size, output], [(phases.size, phases.window)], images, lanes)
    plane = plane_of(source, maps)
    parts = np.zeros((len(phases.phases), target.length), np.int64)
    for origin, part, place, length in phase_rows(phases, window, source, target):
        parts[part, place : place + length] = plane[origin : origin + length * window.stride[1] : window.stride[1]][
            :length
        ]
    outputs = target.holding(output).places()
    found = []
    for row, column in taps(window):
        (distance,) = tap_distances(phases.window, phases.tap[row, column][None], target.pitch)
        found.append(parts[phases.phase[row, column]][outputs + distance])
    assert np.array_equal(np.stack(found), expected(window, maps))


def test_only_neurons_are_in_the_mask() -> None:
    grid = Grid((2, 3), (3, 5), images=2, lanes=64, before=64, behind=64)
    mask = np.concatenate([np.zeros(64, np.uint8), grid.mask(), np.zeros(64, np.uint8)])
    assert set(np.flatnonzero(mask)) == set(grid.places().ravel())
    assert grid.computed == 64
    assert grid.length == 192


def test_runs_end_with_the_last_neuron() -> None:
    grid = Grid((4, 4), (8, 16), images=2, lanes=64)
    assert grid.computed == 4 * 64
    assert int(grid.places().max()) == 3 * 64 - 13
    assert grid.runs == 3
