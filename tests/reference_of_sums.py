"""How the contract chooses the integers of sums of several inputs, in numpy, as plainly as its formulas stand there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tests.reference import Integers, Reals, Widths


def worth_of_codes(factor: Reals, step: Reals, unit: float) -> Reals:
    """w of a weighted input: f·Δ·u."""
    return factor * step * unit


def smallest_grain(worth: Reals, codes: Sequence[int], threshold: float, bias: Reals, widths: Widths) -> Reals:
    """The smallest γ of every channel at which w/γ, λ/γ and b/γ fit their registers before they are rounded.

    `worth` is w [inputs, C], `codes` the largest code of each input: Q of a weighted one, 1 of spikes as they are.
    """

    def largest(width: int) -> int:
        return 2 ** (width - 1) - 1

    least = [np.abs(w) / (largest(widths.codebook) // code) for w, code in zip(worth, codes, strict=True)]
    least.append(np.full(len(bias), threshold / largest(widths.threshold)))
    least.append(np.abs(bias) / largest(widths.leak))
    return np.max(least, axis=0)


def gains(worth: Reals, grain: Reals) -> Integers:
    """m [inputs, C]: w in grains."""
    return np.rint(worth / grain).astype(np.int64)


def rounding_of_gains(worth: Reals, grain: Reals) -> Reals:
    """Of every channel, the sum over the inputs of the squared relative errors of m."""
    there = worth != 0
    relative = (gains(worth, grain) * grain - worth) / np.where(there, worth, 1)
    return np.sum(np.where(there, relative, 0) ** 2, axis=0)


def candidates(smallest: Reals) -> Reals:
    """The grains that are tried, [64, C]: the smallest times 1, 1 + 1/64, ..., 1 + 63/64."""
    return np.stack([smallest * (1 + place / 64) for place in range(64)])


def best_grain(worth: Reals, smallest: Reals) -> Reals:
    """γ of every channel: of the grains that are tried, the first that rounds gains the least."""
    tried = candidates(smallest)
    errors = np.stack([rounding_of_gains(worth, grain) for grain in tried])
    return np.take_along_axis(tried, np.argmin(errors, axis=0)[None], axis=0)[0]


def refitted_step(step: Reals, gain: Integers, grain: Reals, factor: Reals, unit: float) -> Reals:
    """Δ of a weighted input once its m is whole: m·γ / (|f|·u), or what it was where m is 0."""
    return np.where(gain == 0, step, np.abs(gain) * grain / (np.abs(factor) * unit))
