"""The input is rounded as the chip reads it."""

from __future__ import annotations

import torch

from fxsnn.layers import Encode, QuantizedInput
from tests.nets import images


class TestTheInput:
    def test_is_rounded_to_signed_integers_and_clipped(self) -> None:
        pixels = torch.tensor([-99.0, -0.26, 0.1, 0.3, 99.0]).view(1, 1, 1, 5)
        assert Encode(0.25, 8, 1)(pixels).flatten().tolist() == [-128, -1, 0, 1, 127]
        assert QuantizedInput(0.25, 8)(pixels).flatten().tolist() == [-32, -0.25, 0, 0.25, 31.75]

    def test_may_stay_as_it_is(self) -> None:
        assert torch.equal(Encode(1.0, None, 3)(images()), images())
