"""Codebooks drawn at random: for tests with random networks, and for hypothesis."""

from __future__ import annotations

import random

import torch
from hypothesis import strategies as st
from torch import Tensor

from fxsnn.numerics import Codebook


def random_codebook(chosen: random.Random, bits: int) -> Codebook:
    """One of so many bits: the symmetric one, or any levels."""
    if bits == 1 or chosen.random() < 0.3:
        return Codebook.symmetric(bits)
    top = chosen.choice([1 << (bits - 1), 15])
    while True:
        levels = sorted(chosen.sample(range(-top, top + 1), 1 << bits))
        if levels[0] < 0 < levels[-1]:
            return Codebook(tuple(levels))


def random_codes(codebook: Codebook, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Levels of a codebook, int8."""
    places = torch.randint(0, len(codebook.levels), shape, generator=generator)
    return torch.tensor(codebook.levels, dtype=torch.int8)[places]


@st.composite
def codebooks(draw: st.DrawFn) -> Codebook:
    """Any codebook."""
    below = draw(st.sets(st.integers(-15, -1), min_size=1, max_size=8))
    above = draw(st.sets(st.integers(0, 15), min_size=1, max_size=8).filter(lambda levels: max(levels) > 0))
    return Codebook(tuple(sorted(below | above)))
