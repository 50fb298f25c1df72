"""The step of the input: never worse than that of the largest magnitude, and not a matter of a single hot pixel."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import fxsnn
from fxsnn.calibration import Magnitudes
from fxsnn.layers import quantize_input, unlike_calibration
from fxsnn.passes import CalibrateThresholds

BITS = st.integers(2, 16)


def magnitudes(*batches: Tensor) -> Magnitudes:
    seen = Magnitudes()
    for batch in batches:
        seen.add(batch)
    return seen


def error(images: Tensor, unit: float, bits: int) -> float:
    """Mean over images of the squared error, relative to the image's energy."""
    exact = images.double()
    wrong = (quantize_input(images, unit, bits) * unit - exact).square().flatten(1).sum(1)
    energy = exact.square().flatten(1).sum(1)
    return float((wrong / energy)[energy > 0].sum()) / len(images)


@st.composite
def odd_images(draw: st.DrawFn) -> Tensor:
    """Uniform, normal or of few levels, sparse or not, of any size, with hot pixels in some of them or in none."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1 << 20)))
    shape = (draw(st.integers(1, 12)), draw(st.integers(1, 3)), draw(st.integers(1, 6)), draw(st.integers(1, 6)))
    kind = draw(st.sampled_from(["uniform", "normal", "levels", "zero"]))
    pixels = {
        "uniform": torch.rand(shape, generator=generator),
        "normal": torch.randn(shape, generator=generator),
        "levels": torch.randint(0, draw(st.integers(1, 255)) + 1, shape, generator=generator) / 255,
        "zero": torch.zeros(shape),
    }[kind]
    pixels *= torch.rand(shape, generator=generator) < draw(st.sampled_from([0.1, 0.5, 1.0]))
    pixels *= draw(st.sampled_from([1e-6, 0.1, 1.0, 255.0, 1e6]))
    hot = torch.rand(shape, generator=generator) < draw(st.sampled_from([0.0, 0.0, 0.005, 0.1]))
    return torch.where(hot, draw(st.sampled_from([-1000.0, 3.0, 1e4])), pixels)


@settings(max_examples=50)
@given(images=odd_images(), bits=BITS)
def test_the_search_ends_where_no_smaller_step_can_be_better(images: Tensor, bits: int) -> None:
    seen = magnitudes(images)
    found = seen.least_error_unit(bits)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fxsnn.calibration.magnitudes._error_of_clipping", lambda *_: 0.0)  # to the last candidate
        assert seen.least_error_unit(bits) == found


@settings(max_examples=25)
@given(images=odd_images(), bits=BITS)
def test_its_error_is_never_above_that_of_the_largest_magnitude(images: Tensor, bits: int) -> None:
    seen = magnitudes(images)
    unit, widest = seen.least_error_unit(bits), seen.widest_unit(bits)
    assert 0 < unit <= widest
    assert unit == widest or error(images, unit, bits) <= error(images, widest, bits)


@settings(max_examples=25)
@given(images=odd_images(), bits=BITS, scale=st.integers(-8, 8))
def test_images_that_are_scaled_by_a_power_of_two_scale_the_step_by_it(images: Tensor, bits: int, scale: int) -> None:
    scaled = magnitudes(images * 2.0**scale)
    expected = magnitudes(images).least_error_unit(bits)
    assert scaled.least_error_unit(bits) == (expected * 2.0**scale if images.any() else 1.0)


@settings(max_examples=25)
@given(images=odd_images(), bits=BITS)
def test_the_order_and_the_cut_into_batches_do_not_matter(images: Tensor, bits: int) -> None:
    parts = magnitudes(*images.flip(0).split(3))
    assert parts.least_error_unit(bits) == magnitudes(images).least_error_unit(bits)


@pytest.mark.parametrize("bits", [2, 4, 8, 12])
@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_images_that_are_on_the_grid_of_the_largest_magnitude_stay_exact(bits: int, share: float) -> None:
    top = (1 << (bits - 1)) - 1
    for levels in (1, top):
        pixels = torch.randint(-levels, levels + 1, (50, 1, 8, 8)) * (torch.rand(50, 1, 8, 8) < share) / levels
        pixels[0, 0, 0, 0] = 1.0
        assert magnitudes(pixels).least_error_unit(bits) == 1 / top


@pytest.mark.parametrize("scale", [1.0, 255.0])
def test_photographs_in_8_bits_keep_the_largest_magnitude(scale: float) -> None:
    images = torch.randint(0, 256, (100, 3, 16, 16)) / 255 * scale
    for prepared in (images, (images - 0.45 * scale) / (0.22 * scale)):
        seen = magnitudes(prepared)
        assert seen.least_error_unit(8) == seen.widest_unit(8)


def test_the_long_tails_of_noise_are_clipped_where_there_are_few_bits() -> None:
    noise = torch.randn(200, 1, 16, 16)
    seen = magnitudes(noise)
    unit = seen.least_error_unit(4)
    assert error(noise, unit, 4) < 0.5 * error(noise, seen.widest_unit(4), 4)
    assert 2.3 < 7 * unit < 2.8  # the best of a uniform quantiser of 15 levels is 2.5 deviations


def test_bright_points_that_every_image_has_stay_in_range() -> None:
    stars = torch.rand(50, 1, 16, 16)
    stars[:, :, 3, 4] = 1000.0
    assert magnitudes(stars).least_error_unit(8) == 1000 / 127


def test_shares_are_those_of_the_numbers_that_are_not_zero() -> None:
    seen = magnitudes(torch.tensor([[0.0, 0.0, 0.4, -0.3, 2.0, -100.0]]))
    assert seen.largest == 100.0
    assert seen.median() == pytest.approx(0.4, rel=1e-3)
    shares = seen.shares(1.0, 3)  # codes to 3
    assert (shares.to_zero, shares.clipped) == (0.5, 0.25)


def bars(count: int) -> tuple[Tensor, Tensor]:
    """Images [count, 1, 8, 8] of 0 to 1 with a bar that lies or stands, and which of them does."""
    images, labels = 0.2 * torch.rand(count, 1, 8, 8), torch.arange(count) % 2
    for image, label, place in zip(images, labels, torch.randint(1, 7, (count,)), strict=True):
        image[0].select(int(label), int(place)).add_(0.8)
    return images, labels


def bar_reader() -> nn.Module:
    """Tells the two by the contrast along the columns and along the rows."""
    model: Any = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.AvgPool2d(6), nn.Flatten(), nn.Linear(2, 2))
    lying = torch.tensor([[-1.0, -1.0, -1.0], [2.0, 2.0, 2.0], [-1.0, -1.0, -1.0]]) / 6
    with torch.no_grad():
        model[0].weight.copy_(torch.stack([lying, lying.T])[:, None])
        model[0].bias.fill_(-0.3)
        model[4].weight.copy_(torch.tensor([[1.0, -1.0], [-1.0, 1.0]]))
        model[4].bias.zero_()
    return model.eval()


@pytest.mark.parametrize("input_bits", [4, 8])
def test_a_hot_pixel_in_one_of_200_frames_costs_no_accuracy(input_bits: int) -> None:
    model, (frames, _), (images, labels) = bar_reader(), bars(200), bars(100)
    hot = frames.clone()
    hot[17, 0, 2, 5] = 1000.0
    for data in (frames, hot):
        snn = fxsnn.convert(
            model, target="hw_v1.0", bits=4, timesteps=32, calibration_data=data, input_bits=input_bits
        )  # any warning is an error here
        with torch.no_grad():
            assert bool((model(images).argmax(1) == labels).all())
            assert bool((snn(images).argmax(1) == labels).all())
            snn(hot[17:18])  # nor is the frame itself called unlike those of calibration


def test_the_largest_magnitude_would_have_cost_it() -> None:
    model, (frames, _), (images, labels) = bar_reader(), bars(200), bars(100)
    frames[17, 0, 2, 5] = 1000.0
    with pytest.warns(fxsnn.CalibrationWarning, match="the input: 100% of the numbers"):
        graph = CalibrateThresholds(frames, method="max")(fxsnn.capture(model)).after
    assert bool((graph.run(images).argmax(1) == 0).all())
    assert 0 < int(labels.sum()) < len(labels)


def test_one_hot_pixel_makes_no_image_unlike_those_of_calibration() -> None:
    image = torch.rand(1, 1, 8, 8)
    image[0, 0, 2, 5] = 1000.0
    assert unlike_calibration(image, 1 / 127, 8) is None
    image[0, 0, 2, 6] = 1000.0
    assert unlike_calibration(image, 1 / 127, 8) is not None
