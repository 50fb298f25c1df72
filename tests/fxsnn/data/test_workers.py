"""Loaders whose workers are started beside the compiled engine and its threads, in every way that Python has."""

from __future__ import annotations

import multiprocessing

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import fxsnn
from fxsnn.insight import accuracy
from tests.nets import Small, images, seeded
from tests.random_networks import quiet


@pytest.mark.slow
@pytest.mark.parametrize("how", multiprocessing.get_all_start_methods())
def test_workers_start_beside_the_engine(how: str) -> None:
    data = TensorDataset(images(24), torch.arange(24) % 5)
    plain, loader = DataLoader(data, 8), DataLoader(data, 8, num_workers=2, multiprocessing_context=how)
    with quiet():
        first, second = (
            fxsnn.convert(seeded(Small), target="generic", bits=4, timesteps=4, calibration_data=one)
            for one in (plain, loader)  # the engine runs before the first workers start
        )
    assert torch.equal(second(images(24)), first(images(24)))
    assert accuracy(second, loader) == accuracy(first, plain)
