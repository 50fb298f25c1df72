"""Wiring: whatever goes wherever, wires bring it there, and there are few of them where it goes in rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fxsnn.engine.planes import Grid
from fxsnn.engine.tables import groups_of
from fxsnn.engine.wires import wires_of
from tests.engines import needs_numba

IMAGES, STEPS = 2, 3


def grid(height: int, width: int, rows: int = 1, columns: int = 1) -> Grid:
    """A layout with empty rows and columns between maps."""
    return Grid((height, width), (height + rows, width + columns), IMAGES, 64, 64, 64)


def packed(spikes: np.ndarray[Any, Any], layout: Grid, per_byte: int) -> np.ndarray[Any, Any]:
    """Maps of 0 and 1 [steps, images, C, height, width] as planes."""
    channels = spikes.shape[2]
    planes = np.zeros((len(spikes), groups_of(channels, per_byte), layout.length), np.uint8)
    for channel in range(channels):
        planes[:, channel // per_byte, layout.places()] |= spikes[:, :, channel] << channel % per_byte
    return planes


def wired(
    numbers: np.ndarray[Any, Any],
    sources: list[np.ndarray[Any, Any]],
    grids: list[Grid],
    target: Grid,
    per_byte: int,
) -> Any:
    """The planes that wires make of those of the sources."""
    from fxsnn.engine.kernels import wire

    planes = [packed(one, layout, per_byte) for one, layout in zip(sources, grids, strict=True)]
    memory = np.concatenate([one.reshape(-1) for one in planes])
    origins = np.cumsum([0, *(one.size for one in planes[:-1])]).astype(np.int64)
    strides = np.array([one[0].size for one in planes], np.int64)
    given = [(one.shape[2], layout) for one, layout in zip(sources, grids, strict=True)]
    wires = wires_of(numbers, given, target, per_byte)
    found = np.zeros((STEPS, groups_of(len(numbers), per_byte), target.length), np.uint8)
    between = np.array([layout.image_places for layout in grids], np.int64)
    wire(memory, wires, origins, strides, between, found, IMAGES, target.image_places)
    return found


@needs_numba
@given(st.data())
@settings(deadline=None, max_examples=40)
def test_every_output_is_what_its_number_says(data: st.DataObject) -> None:
    random = np.random.default_rng(data.draw(st.integers(0, 1 << 30)))
    shapes = data.draw(st.lists(st.tuples(*[st.integers(1, 6)] * 3), min_size=1, max_size=3))
    sources = [random.integers(0, 2, (STEPS, IMAGES, *shape), np.uint8) for shape in shapes]
    every = np.concatenate([one.reshape(STEPS, IMAGES, -1) for one in sources], axis=2)
    channels, height, width = data.draw(st.tuples(*[st.integers(1, 6)] * 3))
    numbers = random.integers(0, every.shape[2] + 1, (channels, height, width))
    if data.draw(st.booleans()):  # in rows, and backwards
        numbers = np.arange(channels * height * width).reshape(channels, height, width)[:, :, ::-1] % every.shape[2] + 1
    target, per_byte = grid(height, width, 2, 1), data.draw(st.sampled_from((4, 6)))
    found = wired(numbers, sources, [grid(*shape[1:]) for shape in shapes], target, per_byte)
    outputs = np.concatenate([np.zeros_like(every[..., :1]), every], axis=2)[..., numbers]
    assert np.array_equal(found, packed(outputs, target, per_byte))


@pytest.mark.parametrize(
    ("change", "wires"),
    [
        (lambda numbers: numbers, 2 * 6),  # two groups of four channels, six rows
        (lambda numbers: numbers[4:], 6),
        (lambda numbers: numbers[:, ::2, 1::2], 2 * 3),
        (lambda numbers: numbers[:, :, ::-1], 2 * 6),
        (lambda numbers: numbers.repeat(2, 1).repeat(2, 2), 2 * 12 * 2),
        (lambda numbers: numbers.swapaxes(1, 2), 2 * 5),
        (lambda numbers: numbers[[1, 2, 3, 0]], 2 * 6),  # three of them move by one, one by three
        (lambda numbers: numbers[:0], 0),
    ],
)
def test_rows_are_copied_as_rows(change: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]], wires: int) -> None:
    numbers = change(np.arange(1, 8 * 6 * 5 + 1).reshape(8, 6, 5))
    found = wires_of(np.ascontiguousarray(numbers), [(8, grid(6, 5))], grid(*numbers.shape[1:]), 4)
    assert len(found) == wires
