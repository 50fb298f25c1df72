"""Tiles of codes: each weight is in exactly one product, and products of nothing but zeros are left out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fxsnn.engine.tables import ungrouped

pytest.importorskip("numba")

ROWS, ROW = 16, 64


def weights_in(products: Any, outputs: int, inputs: int, kernel: tuple[int, int], copies: int) -> np.ndarray[Any, Any]:
    """The weights [outputs, inputs, height, width] that products multiply by, added up."""
    own = -(-inputs // ROWS) * ROWS
    wide = (-(-kernel[1] // copies) + 1) * copies
    found = np.zeros((-(-outputs // 32) * 32, -(-inputs // ROW) * ROW, kernel[0], wide), np.int64)
    for pair, (begin, end) in enumerate(zip(products.bounds[:-1], products.bounds[1:], strict=True)):
        for number in range(begin, end):
            (down, across), chunk = products.tap[number], products.chunk[number]
            # [tiles, fours of inputs, outputs, inputs of a four] as [outputs of the pair, bytes of a row]
            rows = products.codes[number].reshape(2, ROWS, ROWS, 4).transpose(0, 2, 1, 3).reshape(32, ROW)
            for byte in range(ROW):
                copy, channel = divmod(byte, own) if copies > 1 else (0, chunk * ROW + byte)
                if copy < copies:
                    found[32 * pair : 32 * pair + 32, channel, down, across + copy] += rows[:, byte]
                else:
                    assert not rows[:, byte].any()
    assert not found[outputs:].any()
    assert not found[:, inputs:].any()
    assert not found[..., kernel[1] :].any()
    return found[:outputs, :inputs, :, : kernel[1]]


@given(st.data())
@settings(max_examples=60)
def test_every_weight_is_in_one_product(data: st.DataObject) -> None:
    from fxsnn.engine.tile_codes import TileCodes

    groups = data.draw(st.sampled_from([1, 1, 2, 5]))
    inputs, outputs = (groups * data.draw(st.integers(1, 40)) for _ in range(2))
    kernel = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 5))
    room = ROW // (-(-inputs // ROWS) * ROWS)
    copies = data.draw(st.integers(1, max(1, min(room, kernel[1]))))
    random = np.random.default_rng(data.draw(st.integers(0, 99)))
    codes = random.integers(-15, 16, (outputs, inputs // groups, *kernel)).astype(np.int8)
    products = TileCodes(codes, groups).products(copies)
    assert np.array_equal(weights_in(products, outputs, inputs, kernel, copies), ungrouped(codes, groups))


def test_a_depthwise_convolution_multiplies_by_the_channels_of_its_outputs_only() -> None:
    from fxsnn.engine.tile_codes import TileCodes

    codes = np.ones((256, 1, 3, 3), np.int8)
    products = TileCodes(codes, 256).products(1)
    assert len(products.codes) == 9 * 256 // 32
    assert np.array_equal(products.chunk.reshape(-1, 9)[:, 0], np.arange(8) // 2)


def test_products_of_zeros_are_left_out() -> None:
    from fxsnn.engine.tile_codes import TileCodes

    codes = np.zeros((64, 128, 1, 1), np.int8)
    codes[40, 100] = 3
    products = TileCodes(codes, 1).products(1)
    assert products.bounds.tolist() == [0, 0, 1]
    assert products.chunk.tolist() == [1]


def test_several_taps_are_one_product_where_channels_are_few() -> None:
    from fxsnn.engine.tile_codes import TileCodes

    codes = np.ones((16, 16, 3, 3), np.int8)
    assert len(TileCodes(codes, 1).products(1).codes) == 9
    assert TileCodes(codes, 1).products(3).tap.tolist() == [[0, 0], [1, 0], [2, 0]]


def test_products_are_made_once() -> None:
    from fxsnn.engine.tile_codes import TileCodes

    codes = TileCodes(np.ones((4, 4, 3, 3), np.int8), 1)
    assert codes.products(2) is codes.products(2)
    assert codes.products(2) is not codes.products(1)


def test_a_pooling_adds_up_each_channel_by_itself() -> None:
    from fxsnn.engine.tile_codes import pooling_codes

    found = weights_in(pooling_codes(20, (2, 3)).products(1), 20, 20, (2, 3), 1)
    assert np.array_equal(found, np.broadcast_to(np.eye(20, dtype=int)[..., None, None], (20, 20, 2, 3)))
