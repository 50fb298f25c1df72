"""The engines that can run here, for tests that hold every one of them to the same spikes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fxsnn
from fxsnn.errors import OptionError
from tests.nets import images, seeded


def tiny() -> nn.Module:
    """3x12x12: one convolution."""
    return nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(200, 2))


def can_run(engine: str) -> bool:
    """Whether this machine has what the engine needs."""
    snn = fxsnn.convert(seeded(tiny), target="generic", bits=3, calibration_data=images(), engine=engine)
    try:
        snn(images())
    except OptionError:
        return False
    return True


ENGINES = tuple(name for name in ("torch", "numba", "triton") if can_run(name))

needs_numba = pytest.mark.skipif("numba" not in ENGINES, reason="needs numba and a processor with AVX2")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether all layers have the same spikes."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
