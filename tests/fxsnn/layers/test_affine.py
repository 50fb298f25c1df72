"""A scale and a shift of each channel, and layers into which one has gone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fxsnn.layers import (
    Affine,
    FoldedConv2d,
    affine_of_norm,
    conv_like,
    input_shift,
    norm_with_affine_behind,
    with_affine_behind,
    with_affine_in_front,
)
from tests.nets import images, seeded


def an_affine(channels: int, seed: int = 0, *, shifts: bool = True) -> Affine:
    generator = torch.Generator().manual_seed(seed)
    scale, shift = torch.randn(2, channels, generator=generator, dtype=torch.float64)
    return Affine(scale, shift * shifts)


def double(layer: nn.Module) -> Any:
    return layer.double()


def test_it_scales_and_shifts_channels_of_whatever_shape() -> None:
    affine = Affine(torch.tensor([2.0, 0.0]), torch.tensor([1.0, -1.0]))
    for shape in ((1, 2), (1, 2, 3), (1, 2, 3, 3)):
        out = affine(torch.ones(shape))
        assert out.shape == shape
        assert (out[:, 0] == 3).all()
        assert (out[:, 1] == -1).all()


def test_one_number_is_for_all_channels() -> None:
    affine = Affine(torch.tensor([2.0]), torch.tensor([-1.0, -1.0, -1.0]))
    assert affine.channels == 3
    assert torch.equal(Affine(torch.tensor([2.0]), torch.tensor([-1.0]))(images()), affine(images()))


def test_it_is_exact_to_the_type_of_the_images_and_survives_casts() -> None:
    affine = Affine(torch.tensor([1 / 3], dtype=torch.float64), torch.tensor([0.1], dtype=torch.float64))
    for cast in (affine.half(), affine.float(), affine.to(torch.bfloat16)):
        assert cast.scale.dtype == torch.float64
        assert float(cast.scale) == 1 / 3
    assert affine(images().half()).dtype == torch.float16
    assert torch.equal(affine(images()), (images().double() / 3 + 0.1).float())


def test_it_says_what_it_does() -> None:
    assert repr(Affine(torch.tensor([2.0]), torch.tensor([-1.0]))) == "Affine(scale=2, shift=-1)"
    assert repr(Affine(torch.tensor([2.0, 3.0]), torch.zeros(2))) == "Affine(2, scale=2..3, shift=0)"
    assert repr(Affine(torch.ones(1, device="meta"), torch.ones(1, device="meta"))) == "Affine(scale=?, shift=?)"


def test_two_are_one() -> None:
    one, two = an_affine(3, 1), an_affine(3, 2)
    x = images().double()
    torch.testing.assert_close(one.then(two)(x), two(one(x)))
    torch.testing.assert_close(Affine(torch.ones(1) * 2, torch.ones(1)).then(two)(x), two(2 * x + 1))


@pytest.mark.parametrize("affine", [True, False])
def test_a_batch_norm_is_one(affine: bool) -> None:
    norm = double(seeded(lambda: nn.BatchNorm2d(3, affine=affine)))
    torch.testing.assert_close(affine_of_norm(norm)(images().double()), norm(images().double()))


@settings(max_examples=30)
@given(
    seed=st.integers(0, 1000),
    groups=st.sampled_from((1, 2)),
    bias=st.booleans(),
    padding=st.integers(0, 1),
    channels=st.sampled_from((1, 4)),
)
def test_a_convolution_can_do_it_on_both_sides(seed: int, groups: int, bias: bool, padding: int, channels: int) -> None:
    conv = double(seeded(lambda: nn.Conv2d(4, 6, 3, 2, padding, 1, groups, bias), seed))
    x = images(channels=4).double()
    front = an_affine(channels, seed, shifts=padding == 0)
    torch.testing.assert_close(with_affine_in_front(conv, front)(x), conv(front(x)))
    behind = an_affine(6 if channels == 4 else 1, seed)
    torch.testing.assert_close(with_affine_behind(conv, behind)(x), behind(conv(x)))


@pytest.mark.parametrize("channels", [1, 3, 12])
@pytest.mark.parametrize("bias", [True, False])
def test_a_fully_connected_layer_can_do_it_on_both_sides(channels: int, bias: bool) -> None:
    linear = double(seeded(lambda: nn.Linear(12, 5, bias)))
    affine, maps = an_affine(channels), images(channels=channels, size=1).double().expand(-1, -1, 12 // channels, 1)
    torch.testing.assert_close(with_affine_in_front(linear, affine)(maps.flatten(1)), linear(affine(maps).flatten(1)))
    behind, rows = an_affine(5), torch.randn(3, 12, dtype=torch.float64)
    torch.testing.assert_close(with_affine_behind(linear, behind)(rows), behind(linear(rows)))


def test_a_layer_gets_no_bias_without_a_shift() -> None:
    conv = nn.Conv2d(4, 6, 3, bias=False)
    assert with_affine_in_front(conv, an_affine(4, shifts=False)).bias is None
    assert with_affine_behind(conv, an_affine(6, shifts=False)).bias is None
    assert with_affine_in_front(conv, an_affine(4)).bias is not None


def test_parameters_stay_as_trainable_as_they_were_and_in_their_type() -> None:
    conv = nn.Conv2d(4, 6, 3).half().requires_grad_(False)
    new = with_affine_in_front(conv, an_affine(4))
    assert new.weight.dtype == torch.float16
    assert new.bias is not None
    assert not new.weight.requires_grad
    assert not new.bias.requires_grad


@pytest.mark.parametrize("affine", [True, False])
def test_a_batch_norm_can_do_what_stands_behind_it(affine: bool) -> None:
    norm, behind = double(seeded(lambda: nn.BatchNorm2d(3, affine=affine))), an_affine(3)
    new, x = norm_with_affine_behind(norm, behind), images().double()
    torch.testing.assert_close(new(x), behind(norm(x)))
    assert norm.affine is affine


def test_what_a_layer_knows_of_its_batch_norm_is_scaled_and_shifted_too() -> None:
    norm = seeded(lambda: nn.BatchNorm2d(6))
    folded = conv_like(FoldedConv2d, nn.Conv2d(4, 6, 3))
    folded.remember(norm)
    behind = an_affine(6)
    new: Any = with_affine_behind(folded, behind)
    assert isinstance(new, FoldedConv2d)
    torch.testing.assert_close(new.channel_mean.double(), behind.scale * norm.bias.double() + behind.shift)
    torch.testing.assert_close(new.channel_deviation.double(), behind.scale.abs() * norm.weight.abs().double())
    read: Any = with_affine_in_front(folded, an_affine(4))
    assert torch.equal(read.channel_mean, folded.channel_mean)


def test_a_shift_is_remembered_in_units_of_the_new_inputs() -> None:
    """`weight @ (scale * x + shift)` is `(weight * scale) @ (x + shift / scale)`."""
    linear = double(seeded(lambda: nn.Linear(4, 5)))
    affine = Affine(torch.tensor([2.0, -1, 0.5, 0]), torch.tensor([1.0, 1, 1, 1]))
    once = with_affine_in_front(linear, affine)
    assert _list(input_shift(once)) == [0.5, -1, 2, 0]
    twice = with_affine_in_front(once, Affine(torch.tensor([2.0]), torch.tensor([1.0])))
    assert _list(input_shift(twice)) == [0.75, 0, 1.5, 0.5]
    assert input_shift(with_affine_in_front(linear, Affine(torch.tensor([2.0]), torch.tensor([0.0])))) is None


def _list(values: Tensor | None) -> list[float]:
    assert values is not None
    return values.tolist()
