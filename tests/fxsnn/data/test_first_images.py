"""The first images of data, for those who look into it before it is used."""

from __future__ import annotations

import torch
from torch.utils.data import DataLoader, TensorDataset

from fxsnn.data import sample_of
from fxsnn.layers import ImageForm
from tests.nets import images


def test_looking_into_a_shuffled_loader_draws_nothing() -> None:
    loader = DataLoader(TensorDataset(images(8)), 4, shuffle=True)
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    assert sample_of(loader, ImageForm()) is not None
    assert torch.equal(torch.rand(1), expected)
