"""Codes that bring sums near those of the float network: never worse than rounding, exact where that can be said."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fxsnn.numerics import Codebook, InputMoments, reconstructed
from fxsnn.numerics.lowbit import fit_step, weight_codes
from fxsnn.numerics.reconstruction import _DAMPING

CODEBOOKS = [
    Codebook.symmetric(1), Codebook.symmetric(2), Codebook((-2, -1, 0, 1)), Codebook((-3, -1, 1, 3)),
    Codebook.symmetric(4),
]  # fmt: skip


def moments_of(real: Tensor, wanted: Tensor, samples: int = 10**9) -> InputMoments:
    """Of inputs [n, d] of one group, as if they were of that many samples."""
    return InputMoments((real.T @ real / len(real))[None], (wanted.T @ real / len(real))[None], samples)


def squared_error(weight: Tensor, step: Tensor, codes: Tensor, moments: InputMoments) -> Tensor:
    """Of the sums of each row of one group, from the regression on, which is the best that weights can do."""
    lost = moments.regressed(weight.double()[None])[0] - step.view(-1, 1) * codes
    return ((lost @ moments.damped[0]) * lost).sum(1)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32), st.integers(1, 20), st.integers(1, 5), st.sampled_from(CODEBOOKS), st.booleans())
def test_sums_are_no_further_off_than_with_each_weight_rounded_by_itself(
    seed: int, inputs: int, outputs: int, codebook: Codebook, fit: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(inputs, inputs, generator=generator, dtype=torch.float64)
    real = (torch.randn(64, inputs, generator=generator, dtype=torch.float64) @ mixed).relu()
    wanted = real + torch.randn(64, inputs, generator=generator, dtype=torch.float64) / 10
    weight = torch.randn(outputs, inputs, generator=generator)
    moments = moments_of(real, wanted)
    start = fit_step(weight, codebook)
    step, codes = reconstructed(weight, start, codebook, moments, fit=fit)
    assert set(codes.unique().tolist()) <= set(codebook.levels)
    assert bool((step > 0).all())
    best = moments.regressed(weight.double()[None])[0]
    used = step if fit else start.double()
    assert torch.equal(step, used)
    rounded_with = fit_step(best, codebook) if fit else used
    by_itself = squared_error(weight, rounded_with, weight_codes(best, rounded_with, codebook), moments)
    ours = squared_error(weight, used, codes, moments)
    assert bool((ours <= by_itself * (1 + 1e-6) + 1e-9).all())


def test_few_inputs_get_nearly_the_best_codes_that_there_are() -> None:
    generator = torch.Generator().manual_seed(0)
    codebook, shares = Codebook.symmetric(2), []
    for _ in range(20):
        real = torch.randn(50, 6, generator=generator, dtype=torch.float64)
        real[:, 1:] += real[:, :1]
        weight = torch.randn(1, 6, generator=generator)
        moments, step = moments_of(real, real), fit_step(weight, codebook)
        _, codes = reconstructed(weight, step, codebook, moments, fit=False)
        every = torch.tensor(list(itertools.product(codebook.levels, repeat=6)), dtype=torch.float64)
        errors = squared_error(weight.expand(len(every), -1), step.expand(len(every)), every, moments)
        shares.append(float(squared_error(weight, step, codes, moments) / errors.min()))
    assert min(shares) >= 1 - 1e-9
    assert sum(share < 1.001 for share in shares) >= 12
    assert max(shares) < 2


def test_what_one_weight_loses_another_one_makes_up_for() -> None:
    """Two inputs that are the same: 0.4 and 0.4 make 0.8 of them, which one weight of 1 does better than two of 0."""
    real = torch.arange(1.0, 9.0, dtype=torch.float64)[:, None].expand(-1, 2)
    _, codes = reconstructed(
        torch.full((1, 2), 0.4), torch.ones(1), Codebook.symmetric(2), moments_of(real, real), fit=False
    )
    assert codes.sum() == 1


def test_weights_make_up_for_inputs_that_are_not_those_of_the_float_network() -> None:
    real = torch.randn(100, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weight = torch.tensor([[1.0, -2.0, 3.0]])
    moments = moments_of(real, 2 * real)
    torch.testing.assert_close(moments.regressed(weight.double()[None])[0], 2 * weight.double(), rtol=_DAMPING, atol=0)
    step, codes = reconstructed(weight, torch.ones(1), Codebook.symmetric(4), moments)
    torch.testing.assert_close(step[:, None] * codes, 2 * weight.double(), rtol=0.1, atol=0.3)


def test_what_few_samples_show_is_hardly_believed() -> None:
    generator = torch.Generator().manual_seed(0)
    real, wanted = (torch.randn(30, 8, generator=generator, dtype=torch.float64) for _ in range(2))
    weight = torch.randn(2, 8, generator=generator, dtype=torch.float64)
    by_samples = [moments_of(real, wanted, samples).regressed(weight[None])[0] for samples in (0, 8, 10**9)]
    torch.testing.assert_close(by_samples[0], weight)
    moved = [float((one - weight).norm()) for one in by_samples]
    assert moved[0] < moved[1] < moved[2]


def test_groups_do_not_know_of_each_other() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(40, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    weight = torch.randn(4, 5, generator=generator)
    codebook = Codebook.symmetric(2)
    apart = [moments_of(first, first), moments_of(second, second)]
    real, cross = (torch.cat([getattr(one, name) for one in apart]) for name in ("real", "cross"))
    together = InputMoments(real, cross, apart[0].samples)
    step, codes = reconstructed(weight, torch.ones(4), codebook, together)
    for part, (rows, moments) in enumerate(zip(weight.split(2), apart, strict=True)):
        own_step, own_codes = reconstructed(rows, torch.ones(2), codebook, moments)
        assert torch.equal(codes.split(2)[part], own_codes)
        torch.testing.assert_close(step.split(2)[part], own_step)


@pytest.mark.parametrize("inputs", [1, 3])
def test_inputs_that_are_always_zero_leave_weights_rounded(inputs: int) -> None:
    nothing = torch.zeros(10, inputs, dtype=torch.float64)
    weight = torch.tensor([[0.7, -0.2, 0.1][:inputs]])
    step, codes = reconstructed(weight, torch.ones(1), Codebook.symmetric(4), moments_of(nothing, nothing))
    torch.testing.assert_close(step[:, None] * codes, weight.double(), rtol=0.2, atol=0.1)


def test_they_are_the_same_twice_and_do_not_touch_what_they_are_given() -> None:
    generator = torch.Generator().manual_seed(0)
    real = torch.randn(300, 150, generator=generator, dtype=torch.float64)
    weight, moments = torch.randn(3, 150, generator=generator), moments_of(real, real)
    kept = moments.real.clone(), weight.clone()
    (one, codes), (other, same) = (
        reconstructed(weight, torch.ones(3), Codebook.symmetric(2), moments) for _ in range(2)
    )
    assert torch.equal(one, other)
    assert torch.equal(codes, same)
    assert torch.equal(moments.real, kept[0])
    assert torch.equal(weight, kept[1])
