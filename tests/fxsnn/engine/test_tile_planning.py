"""Tiles of rows: every neuron is computed once, and every spike goes where it is read."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fxsnn.engine.planes import Grid, Window, tap_distances
from tests.fxsnn.engine.test_planes import expected, plane_of, taps, windows

pytest.importorskip("numba")


def grid(height: int, width: int, rows: int = 1, columns: int = 1) -> Grid:
    """A layout of two maps with empty rows and columns between."""
    return Grid((height, width), (height + rows, width + columns), 2, 1, 5, 9)


@given(st.integers(1, 9), st.integers(1, 20), st.integers(0, 3), st.sampled_from([1, 2, 5, 16]), st.booleans())
def test_every_neuron_is_in_one_tile(height: int, width: int, apart: int, together: int, rows: bool) -> None:
    from fxsnn.engine.tile_planning import tiles_over

    places = grid(height, width, 1, apart).places()
    tiles = tiles_over(places, together, rows=rows)
    there = tiles >= 0
    assert np.array_equal(np.sort(tiles[there]), np.sort(places.reshape(-1)))
    assert there[:, 0].all()
    assert np.array_equal(
        np.where(there, tiles, tiles[:, :1] + np.arange(together)), tiles[:, :1] + np.arange(together)
    )


@given(st.integers(1, 5), st.integers(1, 20), st.sampled_from([2, 3]))
def test_tiles_in_strides_stay_in_a_row(height: int, width: int, across: int) -> None:
    from fxsnn.engine.tile_planning import tiles_over

    layout = grid(height * across, width * across)
    places = layout.places()[:, ::across, ::across]
    tiles = tiles_over(places, 16, rows=True, across=across)
    assert np.array_equal(np.sort(tiles[tiles >= 0]), np.sort(places.reshape(-1)))
    for tile in tiles:
        kept = tile[tile >= 0] - layout.before
        assert len(set(kept // layout.pitch[1])) == 1
        assert np.array_equal(np.diff(kept), np.full(len(kept) - 1, across))


@given(st.data())
def test_every_output_of_wiring_is_what_its_number_says(data: st.DataObject) -> None:
    from fxsnn.engine.tile_planning import wires_of

    maps = data.draw(st.lists(st.tuples(*[st.integers(1, 4)] * 3), min_size=1, max_size=3))
    layouts = [grid(height, width, columns=number) for number, (_, height, width) in enumerate(maps)]
    sizes = [channels * height * width for channels, height, width in maps]
    shape = data.draw(st.tuples(*[st.integers(1, 5)] * 3))
    target = grid(shape[1], shape[2], columns=2)
    random = np.random.default_rng(data.draw(st.integers(0, 99)))
    if data.draw(st.booleans()):
        numbers = random.integers(0, sum(sizes) + 1, shape)
    else:  # in order, as in a concatenation
        numbers = np.arange(np.prod(shape)).reshape(shape) % (sum(sizes) + 1)
    wires = wires_of(numbers, [(one[0], layout) for one, layout in zip(maps, layouts, strict=True)], target)

    def laid_out(values: np.ndarray[Any, Any], layout: Grid) -> np.ndarray[Any, Any]:
        rows = np.zeros((layout.length, len(values)), np.int64)
        rows[layout.places()[0]] = values.transpose(1, 2, 0)
        return rows

    starts = np.cumsum([0, *sizes])
    given_rows = [
        laid_out(np.arange(start + 1, start + 1 + size).reshape(one), layout)
        for start, size, one, layout in zip(starts, sizes, maps, layouts, strict=False)
    ]
    found = np.zeros((target.length, shape[0]), np.int64)
    for which, place, channel, written, first, length in wires:
        found[written, first : first + length] = given_rows[which][place, channel : channel + length]
    assert np.array_equal(found, laid_out(numbers, target))


def test_neighbouring_channels_are_one_wire() -> None:
    from fxsnn.engine.tile_planning import wires_of

    numbers = np.arange(1, 65).reshape(16, 2, 2)
    assert len(wires_of(numbers, [(16, grid(2, 2))], grid(2, 2))) == 4


@given(windows(stride=True), st.booleans())
def test_with_a_stride_each_tap_is_where_it_is_read(case: tuple[Window, tuple[int, int]], ceil: bool) -> None:
    from fxsnn.engine.layout import Section
    from fxsnn.engine.tile_operations import SPARE
    from fxsnn.engine.tile_planning import origins_of

    (window, size) = case
    window = replace(window, ceil=ceil)
    section = Section(size)
    section.read_in_strides(size, window)
    source = section.grid(2, 1, size)
    maps = np.arange(1, 2 * size[0] * size[1] + 1).reshape(2, *size)
    plane = np.concatenate([plane_of(source, maps), np.zeros(SPARE, np.int64)])
    origins = origins_of(window, source, window.output(size))
    found = np.stack([plane[origins + distance] for distance in tap_distances(window, taps(window), source.pitch)])
    assert np.array_equal(found, expected(window.reaching(size), maps))
