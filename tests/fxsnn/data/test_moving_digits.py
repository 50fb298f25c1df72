"""Events of moving digits: what becomes brighter and darker where an image moves and comes back."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import fxsnn
from fxsnn.data.moving_digits import events_of
from fxsnn.errors import OptionError


def dot() -> torch.Tensor:
    """A bright square on black."""
    images = torch.zeros(1, 1, 20, 20)
    images[..., 8:12, 8:12] = 1
    return images


def test_events_are_counts_of_two_kinds() -> None:
    events = events_of(dot(), steps=9)
    assert events.shape == (1, 9, 2, 20, 20)
    assert set(events.unique().tolist()) <= {0.0, 1.0, 2.0, 3.0, 4.0, 5.0}
    assert (events.sum((0, 2, 3, 4)) > 0).all()  # it never rests
    assert not (events[:, :, 0].bool() & events[:, :, 1].bool()).any()  # a pixel cannot become both


def test_what_moves_leaves_on_the_one_side_and_arrives_on_the_other() -> None:
    places = torch.arange(20.0)
    for step in events_of(dot(), steps=9)[0]:
        brighter, darker = (one.sum(0) @ places / one.sum() for one in step)
        across = float(brighter - darker)
        down = float(step[0].sum(1) @ places / step[0].sum() - step[1].sum(1) @ places / step[1].sum())
        assert (across**2 + down**2) ** 0.5 > 1


def test_images_that_rest_or_are_black_have_no_events() -> None:
    assert not events_of(torch.zeros(2, 1, 8, 8), steps=3).any()


def test_a_seed_gives_the_same_twice_and_another_one_others() -> None:
    digits = torch.rand(3, 1, 28, 28)
    assert torch.equal(events_of(digits, 6, seed=1), events_of(digits, 6, seed=1))
    assert not torch.equal(events_of(digits, 6, seed=1), events_of(digits, 6, seed=2))


@pytest.mark.parametrize("steps", [2, 0, 3.5, "many", None])
def test_what_is_no_number_of_steps_is_refused(steps: Any) -> None:
    with pytest.raises(OptionError, match=f"steps is {steps!r}; allowed are whole numbers from 3 on"):
        events_of(dot(), steps)


def test_the_data_set_has_both_halves_with_their_labels() -> None:
    train, test = fxsnn.datasets.moving_digits(steps=3)
    still, unseen = fxsnn.datasets.load("digits")
    for half, whole, count in ((train, still, 2000), (test, unseen, 1000)):
        frames, labels = half.tensors  # type: ignore[attr-defined]
        assert frames.shape == (count, 3, 2, 28, 28)
        assert torch.equal(labels, whole.tensors[1])  # type: ignore[attr-defined]
