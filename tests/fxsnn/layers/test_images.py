"""The input is rounded as the chip reads it."""

from __future__ import annotations

import pytest
import torch

from fxsnn.errors import DataError
from fxsnn.layers import Encode, ImageForm, QuantizedInput, check_images, in_words, unlike_calibration
from tests.nets import images


class TestTheInput:
    def test_is_rounded_to_signed_integers_and_clipped(self) -> None:
        pixels = torch.tensor([-99.0, -0.26, 0.1, 0.3, 99.0]).view(1, 1, 1, 5)
        assert Encode(0.25, 8, ImageForm(1, 4))(pixels).flatten().tolist() == [-128, -1, 0, 1, 127]
        assert QuantizedInput(0.25, 8)(pixels).flatten().tolist() == [-32, -0.25, 0, 0.25, 31.75]

    def test_may_stay_as_it_is(self) -> None:
        assert torch.equal(Encode(1.0, None, ImageForm(3, 4))(images()), images())

    def test_of_other_channels_is_refused_with_both_numbers(self) -> None:
        with pytest.raises(DataError, match=r"shape \[2, 1, 8, 6\], that is 1 channels; expected \[N, 3, H, W\]"):
            check_images(torch.zeros(2, 1, 8, 6), ImageForm(3, 4))

    def test_is_said_in_words_with_type_and_shape(self) -> None:
        assert in_words(torch.zeros(2, 3, dtype=torch.int8)) == "torch.int8 [2, 3]"
        assert in_words(None) == "a NoneType"


class TestRange:
    """A network that was calibrated on images of 0..1, read in 8 bits."""

    UNIT = 1 / 127

    @pytest.mark.parametrize("bits", [4, 8])
    @pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
    def test_images_of_0_to_255_are_told_with_both_ranges(self, bits: int, dtype: torch.dtype) -> None:
        given = torch.linspace(0, 255, 300, dtype=dtype).view(1, 3, 10, 10)
        told = unlike_calibration(given, 1 / ((1 << (bits - 1)) - 1), bits)
        assert told is not None
        assert "images range from 0 to 255, but the network was calibrated for -1 to 1: 9" in told
        assert "are clipped. Prepare images" in told

    def test_thin_digits_of_0_to_255_are_told_too(self) -> None:
        digit = torch.zeros(1, 1, 28, 28)
        digit[:, :, 4:24, 14] = 255.0
        assert unlike_calibration(digit, self.UNIT, 8) is not None

    @pytest.mark.parametrize("given", [torch.rand(2, 3, 8, 8), torch.linspace(-0.42, 2.82, 128).view(1, 2, 8, 8)])
    def test_images_of_0_to_1_and_normalised_ones_are_told_where_0_to_255_was_calibrated(
        self, given: torch.Tensor
    ) -> None:
        told = unlike_calibration(given, 255 / 127, 8)
        assert told is not None
        assert "next to nothing is left" in told

    @pytest.mark.parametrize(
        "given",
        [
            torch.rand(4, 3, 8, 8),
            torch.rand(4, 3, 8, 8) * 2 - 1,
            torch.rand(4, 3, 8, 8) + 0.3 * torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)),
            torch.rand(4, 3, 8, 8) * 0.02,  # a dark image
            torch.zeros(1, 3, 8, 8),
            torch.zeros(0, 3, 8, 8),
            torch.cat([torch.rand(999), torch.tensor([40.0])]).view(1, 1, 10, 100),  # an outlier
            torch.full((1, 1, 2, 2), float("nan")),  # which is refused elsewhere
        ],
    )
    def test_ordinary_images_are_not(self, given: torch.Tensor) -> None:
        assert unlike_calibration(given, self.UNIT, 8) is None
