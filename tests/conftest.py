"""What all tests share: conversion without the warnings that a test does not speak about."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings
from torch import nn

import fxsnn

# The same examples at every run; no deadline, since the machine may be busy.
settings.register_profile("fxsnn", deadline=None, derandomize=True)
settings.load_profile("fxsnn")


torch.set_num_threads(1)  # the networks of the tests are too small for more to pay


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Weights that a test draws by itself are the same whichever tests ran before it."""
    torch.manual_seed(0)
    np.random.seed(0)


@pytest.fixture
def convert() -> Callable[..., fxsnn.SpikingNetwork]:
    """`fxsnn.convert` for hw_v1.0 at 2 bits, corrected only before training, unless a test says otherwise.

    Its warnings are silenced.
    """

    def quietly(model: nn.Module, **options: Any) -> fxsnn.SpikingNetwork:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", fxsnn.FxsnnWarning)
            correction = "auto" if options.get("finetune") else None
            return fxsnn.convert(model, **{"target": "hw_v1.0", "bits": 2, "correction": correction, **options})

    return quietly


@pytest.fixture
def no_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine of the CPU looks up in tables, also where the processor multiplies tiles: these hold larger sums."""
    pytest.importorskip("numba")
    from fxsnn.engine import instructions

    kept = {name: one for name, one in instructions.usable().items() if name != "amx"}
    monkeypatch.setattr(instructions, "usable", lambda: kept)
