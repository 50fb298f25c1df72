"""Spike counts become activations once."""

from __future__ import annotations

import pytest
import torch

from fxsnn.layers import Decode
from fxsnn.numerics import Dynamics


class TestDecode:
    DECODE = Decode(torch.tensor([2.0, 4.0], dtype=torch.float64), torch.float32, Dynamics(4))

    def test_counts_become_activations_once(self) -> None:
        spikes = torch.tensor([[1.0, 0], [1, 1], [0, 0], [1, 0]])  # four steps, one image, two channels
        assert self.DECODE(spikes).tolist() == [[1.5, 1.0]]

    def test_after_each_step(self) -> None:
        spikes = torch.tensor([[1.0, 0], [1, 1], [0, 0], [1, 0]])
        assert self.DECODE.after_each_step(spikes)[:3].tolist() == [
            [2, 0],
            [2, 2],
            [pytest.approx(4 / 3), pytest.approx(4 / 3)],
        ]
