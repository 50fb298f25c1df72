"""Which codebooks a layer can choose from, and that it gets the best of them."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fxsnn.chip import CODEBOOKS
from fxsnn.numerics import Codebook, fitted_codebook, kind_of, lowbit
from fxsnn.numerics.codebook_families import OF_LAPLACE, OF_NORMAL, codebooks_of, mirrored

BITS = (1, 2, 3, 4)
PLACES = (torch.arange(2001, dtype=torch.float64) + 0.5) / 2001
"""Quantiles that stand for a distribution."""


def normal() -> Tensor:
    return math.sqrt(2) * torch.erfinv(2 * PLACES - 1)


def laplace() -> Tensor:
    return -(PLACES - 0.5).sign() * (1 - (2 * PLACES - 1).abs()).log() / math.sqrt(2)


def weights(seed: int, rows: int = 4, columns: int = 40) -> Tensor:
    """Of a few distributions, some of them to one side."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(rows, columns, generator=generator)
    power, side = 1 + torch.rand((), generator=generator) * 2, torch.rand((), generator=generator) - 0.5
    return drawn.sign() * drawn.abs() ** power + side


def error(weight: Tensor, codebook: Codebook, *, per_channel: bool = True) -> float:
    step = lowbit.fit_step(weight, codebook, per_channel=per_channel)
    codes = lowbit.weight_codes(weight, step, codebook)
    return float((weight - codes * lowbit.spread(step, weight)).double().square().sum())


class TestFamilies:
    @pytest.mark.parametrize("bits", BITS)
    def test_each_kind_has_all_of_the_narrower_ones_before_its_own(self, bits: int) -> None:
        symmetric, full, free = (codebooks_of(bits, kind) for kind in CODEBOOKS)
        assert symmetric == (Codebook.symmetric(bits),)
        assert full[:1] == symmetric
        assert free[: len(full)] == full

    def test_at_one_bit_there_is_the_sign_alone(self) -> None:
        assert {codebooks_of(1, kind) for kind in CODEBOOKS} == {(Codebook((-1, 1)),)}

    @pytest.mark.parametrize("bits", BITS[1:])
    def test_all_but_the_symmetric_one_use_every_index(self, bits: int) -> None:
        _, *others = codebooks_of(bits, "free")
        assert {len(one.levels) for one in others} == {1 << bits}
        assert set(map(mirrored, others)) == set(others)

    def test_twos_complement_is_its_numbers_or_their_mirror_image(self) -> None:
        assert [one.levels for one in codebooks_of(2, "full")] == [(-1, 0, 1), (-2, -1, 0, 1), (-1, 0, 1, 2)]

    def test_the_kind_is_the_narrowest_that_has_it(self) -> None:
        levels = {"symmetric": (-3, -2, -1, 0, 1, 2, 3), "full": (-1, 0, 1, 2), "free": (-3, -1, 0, 1)}
        assert [kind_of(Codebook(one)) for one in levels.values()] == list(levels)
        assert kind_of(Codebook((-1, 1))) == "symmetric"


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.sampled_from(BITS), st.sampled_from(CODEBOOKS), st.booleans())
def test_none_of_the_family_is_noticeably_better_the_symmetric_one_included(
    seed: int, bits: int, kind: str, per_channel: bool
) -> None:
    weight = weights(seed)
    found = error(weight, fitted_codebook(weight, bits, kind, per_channel=per_channel), per_channel=per_channel)
    for one in codebooks_of(bits, kind):
        assert found <= 1.01 * error(weight, one, per_channel=per_channel)


@pytest.mark.parametrize("bits", BITS[1:])
def test_weights_to_one_side_get_the_levels_to_that_side(bits: int) -> None:
    weight = weights(0).abs() ** 0.5 - 0.3
    chosen = fitted_codebook(weight, bits, "full")
    assert chosen.levels[-1] > -chosen.levels[0]
    assert fitted_codebook(-weight, bits, "full") == mirrored(chosen)


@pytest.mark.parametrize("kind", CODEBOOKS)
def test_a_layer_of_zeros_keeps_to_the_symmetric_one(kind: str) -> None:
    assert fitted_codebook(torch.zeros(3, 9), 3, kind) == Codebook.symmetric(3)


def test_all_rows_count_however_many_are_looked_at_together() -> None:
    weight = weights(3, rows=9)
    expected = fitted_codebook(weight, 4, "free")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lowbit, "_AT_ONCE", 16)
        assert fitted_codebook(weight, 4, "free") == expected


# What the module says of its levels ----------------------------------------------------------------------------------

LLOYD_MAX = {"normal": (0.1175, 0.03454, 0.009497), "laplace": (0.1762, 0.05446, 0.01536)}
"""Least squared errors of 4, 8 and 16 levels, any real numbers, of distributions of variance 1."""


@pytest.mark.parametrize(
    ("name", "quantiles", "levels", "within"),
    [("normal", normal, OF_NORMAL, (1.02, 1.02, 1.09)), ("laplace", laplace, OF_LAPLACE, (1.02, 1.03, 1.07))],
)
def test_levels_of_a_distribution_are_nearly_as_good_as_any_real_numbers(
    name: str, quantiles: Callable[[], Tensor], levels: dict[int, Codebook], within: tuple[float, ...]
) -> None:
    weight = quantiles()[None]
    weight = weight / weight.square().mean().sqrt()
    for bits, least, most in zip(BITS[1:], LLOYD_MAX[name], within, strict=True):
        assert error(weight, levels[bits]) / weight.numel() <= most * least


def best_levels(values: Tensor, count: int, top: int, step: float) -> float:
    """The least mean squared error of so many whole numbers up to `top`, times a step, by dynamic programming."""
    points = step * torch.arange(-top, top + 1, dtype=values.dtype)
    squares = (values[None] - points[:, None]).square()
    nearest = torch.minimum(squares[:, None], squares[None])  # what the better of two neighbours leaves
    between = (values > points[:, None, None]) & (values <= points[None, :, None])
    costs = torch.where(points[:, None] < points[None], (nearest * between).sum(-1), torch.inf)
    least = (squares * (values <= points[:, None])).sum(1)
    for _ in range(count - 1):
        least = (least[:, None] + costs).amin(0)
    return float((least + (squares * (values > points[:, None])).sum(1)).min()) / len(values)


@pytest.mark.parametrize(("quantiles", "levels"), [(normal, OF_NORMAL), (laplace, OF_LAPLACE)])
@pytest.mark.parametrize("bits", BITS[1:])
def test_no_other_whole_numbers_of_their_magnitude_are_better(
    quantiles: Callable[[], Tensor], levels: dict[int, Codebook], bits: int
) -> None:
    values, codebook = quantiles(), levels[bits]
    step = float(lowbit.fit_step(values[None], codebook))
    found = error(values[None], codebook) / len(values)
    tried = (best_levels(values, 1 << bits, codebook.largest, step * share) for share in (0.9, 0.95, 1, 1.05, 1.1))
    assert found <= 1.02 * min(tried)
