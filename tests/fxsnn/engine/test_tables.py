"""Table lookups give the sums of a convolution, for any codes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

from fxsnn.engine.tables import (
    ConvolutionTables,
    convolution_tables,
    groups_of,
    pooling_tables,
    ungrouped,
)
from tests.nets import images

Codes = NDArray[np.int8]
PER_BYTE = (4, 6)
"""Channels that share a byte, of the instruction sets that there are."""


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[Codes, int]:
    """Codes [outputs, inputs per group, height, width] of 1 to 4 bits, and a number of groups."""
    groups = draw(st.integers(1, 3))
    shape = (
        groups * draw(st.integers(1, 4)),
        draw(st.integers(1, 9)),
        draw(st.integers(1, 3)),
        draw(st.integers(1, 3)),
    )
    top = draw(st.sampled_from((1, 3, 7)))
    random = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    codes = random.integers(-top, top + 1, shape).astype(np.int8)
    return codes * (random.random(shape) < draw(st.sampled_from((0.0, 0.3, 1.0)))).astype(np.int8), groups


def sums(tables: ConvolutionTables, spikes: NDArray[np.int64]) -> NDArray[np.int64]:
    """What the lookups of all blocks come to, for spikes [channels, height, width] under one window."""
    per_byte = tables.tables.shape[1]
    padded = np.zeros((groups_of(len(spikes), per_byte) * per_byte, *spikes.shape[1:]), np.int64)
    padded[: len(spikes)] = spikes
    indices = (padded.reshape(-1, per_byte, *spikes.shape[1:]) * (1 << np.arange(per_byte))[:, None, None]).sum(1)
    found = []
    for block in range(len(tables.blocks) - 1):
        total = np.zeros(per_byte, np.int64)
        for run in range(tables.blocks[block], tables.blocks[block + 1]):
            byte = np.zeros(per_byte, np.uint8)
            for lookup in range(tables.flushes[run], tables.flushes[run + 1]):
                index = indices[(tables.group[lookup], *tables.tap[lookup])]
                byte += tables.tables[lookup, :, index]
            total += byte
        found.append(total)
    return np.concatenate(found) + tables.offset


@settings(deadline=None)
@given(convolutions(), st.integers(0, 1 << 32), st.sampled_from(PER_BYTE))
def test_lookups_add_up_to_the_weighted_sum(convolution: tuple[Codes, int], seed: int, per_byte: int) -> None:
    codes, groups = convolution
    spikes = np.random.default_rng(seed).integers(0, 2, (codes.shape[1] * groups, *codes.shape[2:]))
    per_group = np.split(codes.astype(np.int64), groups)
    expected = np.concatenate(
        [(part * x).sum((1, 2, 3)) for part, x in zip(per_group, np.split(spikes, groups), strict=True)]
    )
    found = sums(convolution_tables(codes, groups, per_byte), spikes)
    assert np.array_equal(found[: len(codes)], expected)
    assert np.all(found[len(codes) :] == 0)


@settings(deadline=None)
@given(convolutions(), st.sampled_from(PER_BYTE))
def test_no_run_of_lookups_can_overflow_a_byte(convolution: tuple[Codes, int], per_byte: int) -> None:
    tables = convolution_tables(*convolution, per_byte)
    for run in range(len(tables.flushes) - 1):
        entries = tables.tables[tables.flushes[run] : tables.flushes[run + 1]]
        assert np.all(entries.max(2, initial=0).sum(0, dtype=np.int64) <= np.iinfo(np.uint8).max)


def test_weights_that_are_all_zero_cost_no_lookup() -> None:
    codes = np.zeros((4, 8, 3, 3), np.int8)
    codes[0, 0, 1, 1] = 1
    for per_byte in PER_BYTE:
        assert len(convolution_tables(codes, 1, per_byte).tables) == 1
        assert len(convolution_tables(codes * 0, 1, per_byte).tables) == 0


def test_the_runs_are_as_long_as_they_can_be() -> None:
    tables = convolution_tables(np.full((4, 64, 3, 3), 7, np.int8), 1, 4)
    assert list(np.diff(tables.flushes)) == [9] * 16  # 9 lookups of at most 28 fit a byte


@pytest.mark.parametrize("kernel", [(2, 2), (3, 1), (20, 20)])
@pytest.mark.parametrize("channels", [1, 4, 6])
@pytest.mark.parametrize("per_byte", PER_BYTE)
def test_pooling_counts_the_spikes_of_each_channel(channels: int, kernel: tuple[int, int], per_byte: int) -> None:
    spikes = np.random.default_rng(0).integers(0, 2, (channels, *kernel))
    found = sums(pooling_tables(channels, kernel, per_byte), spikes)
    assert np.array_equal(found[:channels], spikes.sum((1, 2)))


@pytest.mark.parametrize("kernel", [(1, 1), (1, 2), (3, 1), (2, 2)])
@pytest.mark.parametrize("channels", [1, 4, 5])
@pytest.mark.parametrize("per_byte", PER_BYTE)
def test_all_tables_lie_in_memory_as_kernels_read_them(channels: int, kernel: tuple[int, int], per_byte: int) -> None:
    codes = np.ones((channels, channels, *kernel), np.int8)
    for tables in (
        pooling_tables(channels, kernel, per_byte),
        convolution_tables(np.asfortranarray(codes), 1, per_byte),
    ):
        for name, array in vars(tables).items():
            assert array.flags.c_contiguous, name
            assert array.dtype == (np.uint8 if name == "tables" else np.int64), name


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("per_byte", PER_BYTE)
def test_a_byte_that_would_just_overflow_does_not(sign: int, per_byte: int) -> None:
    """Sums of 256, which would be 0 in a byte."""
    spikes = np.ones((1024, 1, 1), np.int64)
    codes = np.full((4, 1024, 1, 1), sign, np.int8)
    assert sums(convolution_tables(codes, 1, per_byte), spikes)[:4].tolist() == [1024 * sign] * 4
    assert sums(pooling_tables(4, (16, 16), per_byte), np.ones((4, 16, 16), np.int64))[:4].tolist() == [256] * 4


@pytest.mark.parametrize("groups", [1, 2, 3])
def test_a_weight_without_groups_is_that_of_the_convolution_in_groups(groups: int) -> None:
    conv = nn.Conv2d(6, 6, 3, groups=groups, bias=False)
    whole = torch.from_numpy(ungrouped(conv.weight.detach().numpy(), groups))
    x = images(2, 6, 8)
    with torch.no_grad():
        torch.testing.assert_close(torch.nn.functional.conv2d(x, whole), conv(x))
