"""n-bit weights in every layer that is to spike, and in no other."""

from __future__ import annotations

import pytest
import torch

import fxsnn
from fxsnn.errors import OptionError
from fxsnn.layers import LowBitConv2d, LowBitLinear
from fxsnn.numerics import Codebook
from fxsnn.passes import FoldBatchNorm, QuantizeWeights
from tests.nets import Small, images, seeded

GRAPH = FoldBatchNorm()(fxsnn.capture(seeded(Small))).after


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_weights_lie_on_the_grid_of_their_bits(bits: int) -> None:
    graph = QuantizeWeights(bits)(GRAPH).after
    for node in graph.nodes(LowBitConv2d, LowBitLinear):
        layer = graph[node]
        assert isinstance(layer, LowBitConv2d | LowBitLinear)
        grid = layer.quantized_weight() / layer.step.view(-1, *[1] * (layer.weight.dim() - 1))
        codes = layer.codes()
        assert codes.dtype == torch.int8
        torch.testing.assert_close(grid, codes.float())
        assert int(codes.abs().max()) <= Codebook.symmetric(bits).largest
        assert bits > 1 or not bool((codes == 0).any())


def test_the_tail_keeps_its_weights() -> None:
    graph = QuantizeWeights(2)(GRAPH).after
    assert type(graph["fc"]) is torch.nn.Linear
    assert graph["fc"].weight is GRAPH["fc"].weight


def test_steps_per_channel_or_per_layer() -> None:
    def steps(per_channel: bool) -> int:
        layer = QuantizeWeights(2, per_channel)(GRAPH).after["conv1"]
        assert isinstance(layer, LowBitConv2d)
        return len(layer.step)

    assert (steps(True), steps(False)) == (8, 1)


def test_more_bits_move_the_output_less() -> None:
    drifts = [QuantizeWeights(bits)(GRAPH).drift(images(32)) for bits in (2, 3, 4)]
    assert drifts[0] > drifts[1] > drifts[2]


@pytest.mark.parametrize("bits", [0, 5, "two", 2.0, True, None])
def test_other_bits_are_refused(bits: object) -> None:
    with pytest.raises(OptionError, match=r"bits is .*; allowed are 1, 2, 3, 4"):
        QuantizeWeights(bits)  # type: ignore[arg-type]
