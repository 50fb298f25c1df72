"""Layers with neurons lead two lives."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxsnn
from fxsnn.layers import SpikeConv2d, Spiking
from fxsnn.numerics import Dynamics
from tests.nets import Small, images, seeded


class TestLayersWrittenByHand:
    @pytest.mark.parametrize(
        ("ours", "theirs", "given"),
        [
            (fxsnn.SpikeConv2d(3, 4, 3, 2, 1, groups=1), nn.Conv2d(3, 4, 3, 2, 1), images()),
            (fxsnn.SpikeLinear(12, 4), nn.Linear(12, 4), images()),
            (fxsnn.SpikeAvgPool2d(3, 2, 1), nn.AvgPool2d(3, 2, 1), images()),
            (fxsnn.SpikeReLU(), nn.ReLU(), images()),
        ],
    )
    def test_are_their_namesakes_until_they_are_converted(
        self, ours: nn.Module, theirs: nn.Module, given: Tensor
    ) -> None:
        theirs.load_state_dict(ours.state_dict())
        assert torch.equal(ours(given), theirs(given))
        assert repr(ours).removeprefix("Spike") == repr(theirs)

    def test_train_as_they_do(self) -> None:
        layer = fxsnn.SpikeConv2d(3, 4, 3)
        layer(images()).sum().backward()
        assert layer.weight.grad is not None

    def test_the_pooling_function_is_average_pooling(self) -> None:
        assert torch.equal(fxsnn.spike_avg_pooling(images(), 2), F.avg_pool2d(images(), 2))


def test_the_type_of_sums_and_membranes_is_wide_enough() -> None:
    layer = SpikeConv2d(1, 1, 1)
    layer.register_buffer("threshold", torch.tensor([10], dtype=torch.int32))
    layer.register_buffer("leak", torch.tensor([-5], dtype=torch.int32))
    layer.gain, layer.largest_sum = 1000, 2048
    layer.dynamics = Dynamics(16)
    assert (layer.sum_type(), layer.membrane_type()) == (torch.float32, torch.int32)
    layer.dynamics = Dynamics(2000)
    assert layer.membrane_type() == torch.int64
    layer.largest_sum = 1 << 24
    assert layer.sum_type() == torch.float64
    layer.largest_sum = (1 << 24) - 1
    assert layer.sum_type() == torch.float32
    layer.largest_sum, layer.input_magnitude = 2048, 512  # bfloat16 cannot hold 511
    assert layer.sum_type() == torch.float64
    layer.input_magnitude = 256  # but all up to 256
    assert layer.sum_type() == torch.float32


@pytest.mark.parametrize(
    ("timesteps", "gain", "largest_sum", "largest_leak", "largest_threshold"),
    [
        (1, 1, (1 << 31) - 1, 0, 0),
        (1, 1, 0, (1 << 31) - 1, 0),
        (3, 5, 1, ((1 << 31) - 1) // 3 - 5, 0),
        (1, 1, 1, 0, (1 << 30) - 1),
    ],
)
def test_membranes_of_32_bits_hold_all_up_to_their_end(
    timesteps: int, gain: int, largest_sum: int, largest_leak: int, largest_threshold: int
) -> None:
    """T * (gain * sum + leak) + 2 * threshold, here less than T below the end."""
    layer = SpikeConv2d(1, 1, 1)
    layer.dynamics, layer.gain, layer.largest_sum = Dynamics(timesteps), gain, largest_sum
    layer.largest_leak, layer.largest_threshold = largest_leak, largest_threshold
    assert layer.membrane_type() == torch.int32
    layer.largest_leak += 1
    assert layer.membrane_type() == torch.int64


def test_a_layer_without_a_sum_of_its_own_says_so() -> None:
    with pytest.raises(NotImplementedError, match="Spiking"):
        Spiking().weighted_sum(torch.zeros(1))


class TestStateDicts:
    def test_numbers_of_another_type_are_refused_and_none_on_meta_are_taken(self, convert: Any) -> None:
        snn = convert(seeded(Small), calibration_data=images())
        expected, state = snn(images()), copy.deepcopy(snn.state_dict())
        narrow = {name: one.half() if one.is_floating_point() else one for name, one in state.items()}
        with pytest.raises(RuntimeError, match=r"conv1.plain_numbers is no float64 tensor of 7 numbers"):
            snn.load_state_dict(narrow)
        snn.load_state_dict(state)
        assert torch.equal(snn(images()), expected)
        empty = convert(seeded(Small), calibration_data=images())
        empty.load_state_dict({name: one.to("meta") for name, one in state.items()}, assign=True)
        assert empty.device.type == "meta"

    def test_the_codebook_travels_with_the_codes(self, convert: Any) -> None:
        snn = convert(seeded(Small), calibration_data=images(), codebook="free")
        other = convert(seeded(Small), calibration_data=images(), codebook="symmetric")
        other.load_state_dict(snn.state_dict())
        assert [row.levels for row in other.report.layers] == [row.levels for row in snn.report.layers]
        assert torch.equal(other(images()), snn(images()))

    def test_numbers_that_are_missing_are_told(self, convert: Any) -> None:
        snn = convert(seeded(Small), calibration_data=images())
        state = {name: one for name, one in snn.state_dict().items() if name != "conv2.plain_numbers"}
        with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "conv2.plain_numbers"'):
            snn.load_state_dict(state)

    def test_a_network_can_be_called_with_one(self, convert: Any) -> None:
        snn = convert(seeded(Small), calibration_data=images(), engine="torch")
        found = torch.func.functional_call(snn, snn.state_dict(), (images(),))
        assert torch.equal(found, snn(images()))
