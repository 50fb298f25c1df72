"""What stands in graphs: clipping, encoding, decoding, and layers that lead two lives."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxsnn
from fxsnn.errors import OptionError
from fxsnn.layers import ClippedReLU, Decode, Encode, QuantizedInput, SpikeConv2d, Spiking
from fxsnn.neuron import Dynamics
from tests.nets import images


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


class TestTheInput:
    def test_is_rounded_to_signed_integers_and_clipped(self) -> None:
        pixels = torch.tensor([-99.0, -0.26, 0.1, 0.3, 99.0]).view(1, 1, 1, 5)
        assert Encode(0.25, 8, 1)(pixels).flatten().tolist() == [-128, -1, 0, 1, 127]
        assert QuantizedInput(0.25, 8)(pixels).flatten().tolist() == [-32, -0.25, 0, 0.25, 31.75]

    def test_may_stay_as_it_is(self) -> None:
        assert torch.equal(Encode(1.0, None, 3)(images()), images())


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
    layer.largest_sum, layer.input_magnitude = 2048, 512  # bfloat16 cannot hold 511
    assert layer.sum_type() == torch.float64


def test_a_layer_without_a_sum_of_its_own_says_so() -> None:
    with pytest.raises(NotImplementedError, match="Spiking"):
        Spiking().weighted_sum(torch.zeros(1))
