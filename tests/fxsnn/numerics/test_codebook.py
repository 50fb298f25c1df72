"""Codebooks: which levels they may have, and which one is nearest."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fxsnn import OptionError
from fxsnn.numerics import Codebook
from tests.codebooks import codebooks

BITS = (1, 2, 3, 4)


@given(
    codebook=codebooks(),
    halves=st.lists(st.integers(-80, 80), min_size=1, max_size=40),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16]),
)
def test_no_level_is_nearer_and_ties_go_to_the_even_one_or_of_two_alike_the_larger(
    codebook: Codebook, halves: list[int], dtype: torch.dtype
) -> None:
    values = torch.tensor(halves, dtype=dtype) / 4
    found = codebook.nearest(values)
    assert found.dtype == dtype
    for value, level in zip(values.tolist(), found.tolist(), strict=True):
        least = min(abs(value - one) for one in codebook.levels)
        nearest = [one for one in codebook.levels if abs(value - one) == least]
        alike = len({one % 2 for one in nearest}) == 1
        assert level == (max(nearest) if alike else next(one for one in nearest if one % 2 == 0))


@given(
    bits=st.sampled_from(BITS),
    values=st.lists(st.floats(-20, 20, width=32) | st.integers(-40, 40).map(lambda half: half / 2), min_size=1),
)
def test_of_a_symmetric_one_the_nearest_is_the_value_rounded_and_clipped(bits: int, values: list[float]) -> None:
    given, limit = np.array(values, np.float32), Codebook.symmetric(bits).largest
    expected = np.where(given >= 0, 1, -1) if bits == 1 else np.clip(np.rint(given), -limit, limit)
    assert Codebook.symmetric(bits).nearest(torch.from_numpy(given)).tolist() == expected.tolist()


@given(codebook=codebooks())
def test_its_bits_are_those_of_an_index(codebook: Codebook) -> None:
    assert 1 << (codebook.bits - 1) < len(codebook.levels) <= 1 << codebook.bits


@pytest.mark.parametrize("bits", BITS)
def test_the_symmetric_one_of_so_many_bits_has_so_many(bits: int) -> None:
    assert Codebook.symmetric(bits).bits == bits


def test_values_up_to_half_a_gap_beyond_the_outermost_levels_are_within_reach() -> None:
    assert Codebook((-3, -1, 1, 7)).reach == (-4, 10)
    assert Codebook.symmetric(3).reach == (-3.5, 3.5)


@pytest.mark.parametrize(
    "levels",
    [
        (),
        (1,),
        (-1, -1, 1),
        (1, -1),
        (-16, 1),
        (-1, 16),
        (0, 1),
        (-1, 0),
        (-1, 0.5),
        (-1, True),
        tuple(range(-8, 9)),
        3,
    ],
)
def test_what_is_no_codebook_is_refused_with_what_is_allowed(levels: object) -> None:
    with pytest.raises(OptionError, match=r"levels of a codebook are .*; allowed are 2 to 16 different whole numbers"):
        Codebook(levels)  # type: ignore[arg-type]


def test_whole_numbers_of_numpy_are_levels() -> None:
    assert Codebook(tuple(np.array([-2, -1, 0, 1]))) == Codebook((-2, -1, 0, 1))


@given(codebook=codebooks())
def test_a_number_stands_for_it(codebook: Codebook) -> None:
    assert Codebook.numbered(codebook.number) == codebook
    assert codebook.number < 1 << 31
    with pytest.raises(OptionError, match=r"no codebook has the number \d+; allowed are numbers below 2\^31"):
        Codebook.numbered(codebook.number | 1 << 40)


@pytest.mark.parametrize("levels", [(-3, -1, 1, 3), (-2, -1, 0, 2), (-15, -10, -7, -4, 1, 2, 8, 14)])
def test_compilers_get_the_same_levels(levels: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    codebook = Codebook(levels)
    values = torch.cat([torch.arange(-17, 17, 0.25), torch.tensor(codebook.boundaries), torch.randn(100)])
    expected = codebook.nearest(values)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert torch.equal(codebook.nearest(values), expected)


def test_it_is_written_in_short() -> None:
    assert str(Codebook.symmetric(4)) == "-7..7"
    assert str(Codebook((-3, -1, 1, 3))) == "-3, -1, 1, 3"
