"""Layers whose inputs are shifted by their bias: what n-bit weights are off by is multiplied with the shift."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxsnn
from fxsnn.checking import rewrite_in_front
from fxsnn.layers import LowBit, input_shift
from fxsnn.passes import FRONT_END, FoldBatchNorm, QuantizeWeights
from tests.nets import images, seeded
from tests.random_networks import quiet


def network() -> Any:
    """A batch norm behind a ReLU, in front of a convolution without padding and batch norm."""
    second = (nn.Conv2d(6, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AvgPool2d(4))
    layers = (nn.Conv2d(3, 6, 3), nn.ReLU(), nn.BatchNorm2d(6), *second, nn.Flatten(), nn.Linear(24, 5))
    return seeded(lambda: nn.Sequential(*layers))


def converted(model: nn.Module, **options: Any) -> fxsnn.SpikingNetwork:
    with quiet():
        return fxsnn.convert(
            model, **{"target": "generic", "bits": 4, "timesteps": 64, "calibration_data": images(64), **options}
        )


def used(snn: fxsnn.SpikingNetwork) -> Any:
    return snn.provenance["options"]["correction"]


def test_n_bit_weights_read_the_sum_of_input_and_shift() -> None:
    graph = rewrite_in_front(fxsnn.capture(network(), images()), (*FRONT_END, FoldBatchNorm()))
    shift = input_shift(graph["3"])
    assert shift is not None
    quantised = QuantizeWeights(4)(graph).after
    assert isinstance(quantised["3"], LowBit)
    low: Any = quantised["3"]
    plain: Any = graph["3"]
    shifted = shift.float().view(1, 6, 1, 1).expand(1, 6, 3, 3)
    without = nn.functional.conv2d(shifted, plain.weight).flatten() - plain.bias.detach()
    with_low_bits = nn.functional.conv2d(shifted, low.quantized_weight()).flatten() - low.bias.detach()
    torch.testing.assert_close(with_low_bits, without, rtol=1e-4, atol=1e-4)
    assert torch.equal(low.float_bias, plain.bias)


def test_biases_are_corrected_on_the_calibration_images() -> None:
    model = network()
    corrected, plain = converted(model), converted(model, correction=None)
    assert used(corrected) == "weights+biases"
    assert used(plain) is None
    with torch.no_grad():
        wanted = model(images(64))
        error, without = (float((snn(images(64)) - wanted).square().mean()) for snn in (corrected, plain))
    assert error < without


@pytest.mark.parametrize("data", [None, "an iterator"])
def test_they_are_not_without_images_that_can_be_seen_again(data: str | None) -> None:
    given = None if data is None else iter([images(8)])
    assert used(converted(network(), calibration_data=given, example=images(2))) is None


def test_what_is_asked_for_is_done() -> None:
    assert used(converted(network(), correction="both")) == "both"


@pytest.mark.parametrize("fits", [Tensor([1.0]), None])
def test_a_layer_knows_its_shift_or_none(fits: Tensor | None) -> None:
    layer = nn.Linear(1, 1)
    if fits is not None:
        layer.register_buffer("input_shift", fits)
    assert input_shift(layer) is fits
