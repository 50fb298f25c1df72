"""What images look like in words and sizes, and the way from signals to maps and back."""

from __future__ import annotations

import pytest
import torch

from fxsnn.errors import DataError
from fxsnn.layers import Encode, ImageForm, Lift, Lower, check_images


@pytest.mark.parametrize(
    ("form", "text"),
    [
        (ImageForm(3, 4), "[N, 3, H, W]"),
        (ImageForm(None, 4), "[N, C, H, W]"),
        (ImageForm(2, 3), "[N, 2, L]"),
        (ImageForm(64, 2), "[N, 64]"),
        (ImageForm(None, 2), "[N, F]"),
        (ImageForm(), "[N, C, H, W], [N, C, L] or [N, F]"),
    ],
)
def test_a_form_says_what_it_is(form: ImageForm, text: str) -> None:
    assert str(form) == text


def test_a_form_of_any_rank_takes_two_to_four_dimensions() -> None:
    assert [rank for rank in range(7) if ImageForm().takes(rank)] == [2, 3, 4]
    assert [rank for rank in range(7) if ImageForm(1, 3).takes(rank)] == [3]


def test_only_signals_become_maps_of_one_row() -> None:
    signals = torch.randn(2, 3, 7)
    assert torch.equal(ImageForm(3, 3).of_layers(signals), signals[:, :, None])
    assert ImageForm(3, 3).size_of_layers((3, 7)) == (3, 1, 7)
    for form, given in ((ImageForm(3, 4), torch.randn(2, 3, 4, 4)), (ImageForm(3, 2), torch.randn(2, 3))):
        assert form.of_layers(given) is given
        assert form.size_of_layers(tuple(given.shape[1:])) == tuple(given.shape[1:])
    assert torch.equal(Lower()(Lift()(signals)), signals)


def test_a_single_place_stays_one() -> None:
    signal = torch.randn(1, 1, 1)
    assert Lift()(signal).shape == (1, 1, 1, 1)
    assert Lower()(Lift()(signal)).shape == (1, 1, 1)


@pytest.mark.parametrize("bits", [8, None])
def test_the_encoder_gives_maps_of_one_row(bits: int | None) -> None:
    assert Encode(1.0, bits, ImageForm(3, 3))(torch.zeros(2, 3, 7)).shape == (2, 3, 1, 7)
    assert Encode(1.0, bits, ImageForm(7, 2))(torch.zeros(2, 7)).shape == (2, 7)


def test_vectors_of_another_width_are_refused_with_both_numbers() -> None:
    with pytest.raises(DataError, match=r"shape \[2, 63\], that is 63 features; expected \[N, 64\]"):
        check_images(torch.zeros(2, 63), ImageForm(64, 2))
