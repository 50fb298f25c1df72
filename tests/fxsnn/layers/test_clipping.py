"""A clipped ReLU has two ends, and levels if it is told to."""

from __future__ import annotations

import pytest
import torch

from fxsnn.errors import OptionError
from fxsnn.layers import Bound, BoundedReLU, ClippedReLU
from fxsnn.numerics import Dynamics


class TestClippedReLU:
    def test_clips_at_both_ends(self) -> None:
        assert ClippedReLU(2.0)(torch.tensor([-1.0, 1.5, 3.0])).tolist() == [0, 1.5, 2]

    def test_rounds_half_up_to_the_levels_that_t_steps_can_express(self) -> None:
        x = torch.tensor([-1.0, 0.2, 0.25, 0.74, 0.75, 1.9, 9.0])
        assert ClippedReLU(2.0, Dynamics(4))(x).tolist() == [0, 0, 0.5, 0.5, 1.0, 2.0, 2.0]

    def test_lets_the_gradient_through_within_its_range_only(self) -> None:
        x = torch.tensor([-1.0, 0.3, 5.0], requires_grad=True)
        ClippedReLU(2.0, Dynamics(4))(x).sum().backward()
        assert x.grad is not None
        assert x.grad.tolist() == [0, 1, 0]

    @pytest.mark.parametrize("threshold", [0.0, -1.0, float("nan")])
    def test_needs_a_positive_threshold(self, threshold: float) -> None:
        with pytest.raises(OptionError, match="threshold is"):
            ClippedReLU(threshold)


class TestBoundedReLU:
    def test_ends_where_it_is_told_to(self) -> None:
        assert BoundedReLU(Bound(2.0))(torch.tensor([-1.0, 1.5, 3.0])).tolist() == [0, 1.5, 2]

    def test_has_levels_at_equal_distances_and_rounds_to_the_nearest(self) -> None:
        x = torch.tensor([-1.0, 0.24, 0.25, 0.74, 0.75, 1.9, 9.0])
        assert BoundedReLU(Bound(2.0, 4))(x).tolist() == [0, 0, 0.5, 0.5, 1.0, 2.0, 2.0]

    def test_shows_its_end_and_its_levels(self) -> None:
        assert str(BoundedReLU(Bound(6.0))) == "BoundedReLU(bound=6)"
        assert str(BoundedReLU(Bound(0.5, 8))) == "BoundedReLU(bound=0.5, levels=8)"

    @pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
    def test_needs_a_positive_end(self, value: float) -> None:
        with pytest.raises(OptionError, match="bound is"):
            Bound(value)

    @pytest.mark.parametrize("levels", [0, -1, 2.5, True])
    def test_needs_a_level_at_least(self, levels: int) -> None:
        with pytest.raises(OptionError, match="levels is"):
            Bound(1.0, levels)
