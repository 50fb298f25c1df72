"""The body becomes integers; the tail stays bit for bit; what does not fit a register is named."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import fxsnn
from fxsnn.chip import HardwareTarget, Registers
from fxsnn.errors import ModelError, OptionError, TargetError
from fxsnn.graph import Graph
from fxsnn.layers import Decode, Encode, SpikeAvgPool2d, SpikeConv2d, SpikeLinear, Spiking
from fxsnn.passes import CalibrateThresholds, Canonicalize, FoldBatchNorm, QuantizeWeights, SubstituteSpikes
from fxsnn.rewriting import Pipeline
from tests.nets import Small, images, seeded
from tests.sharing import cases

V1 = fxsnn.get_target("hw_v1.0")
IMAGES = images(32)


def stages(model: nn.Module, input_bits: int | None = 8, bits: int = 2) -> Graph:
    calibrate = CalibrateThresholds(IMAGES, input_bits=input_bits)
    return Pipeline((Canonicalize(), FoldBatchNorm(), calibrate, QuantizeWeights(bits))).run(model)


GRAPH = stages(seeded(Small))
SPIKING = SubstituteSpikes(V1)(GRAPH).after


def test_every_layer_of_the_body_spikes_and_keeps_its_name() -> None:
    kinds = {SPIKING.name(node): type(SPIKING[node]) for node in SPIKING if node.op == "call_module"}
    assert kinds == {
        "encode": Encode,
        "conv1": SpikeConv2d,
        "pool": SpikeAvgPool2d,
        "conv2": SpikeConv2d,
        "flatten": nn.Flatten,
        "hidden": SpikeLinear,
        "decode": Decode,
        "fc": nn.Linear,
    }


def test_the_tail_is_untouched() -> None:
    assert SPIKING["fc"].weight is GRAPH["fc"].weight


def spiking(name: str, graph: Graph = SPIKING) -> Spiking:
    layer = graph[name]
    assert isinstance(layer, Spiking)
    return layer


def test_everything_that_makes_spikes_is_an_integer() -> None:
    for name in ("conv1", "conv2", "hidden"):
        layer: Any = spiking(name)
        assert layer.codes.dtype == torch.int8
        assert (layer.threshold.dtype, layer.leak.dtype) == (torch.int32, torch.int32)
        assert list(layer.parameters()) == []


def test_registers_hold_every_value() -> None:
    for name in ("conv1", "conv2", "hidden"):
        layer = spiking(name)
        assert int(layer.threshold.min()) >= 1
        assert int(layer.threshold.max()) <= 2**17 - 1
        assert int(layer.leak.min()) >= -(2**18)
        assert int(layer.leak.max()) <= 2**18 - 1
        assert layer.gain * 1 <= 2**10 - 1


def test_only_the_first_layer_reads_more_than_spikes() -> None:
    """Magnitudes decide how wide sums and membranes have to be."""
    magnitudes = {name: spiking(name).input_magnitude for name in ("conv1", "pool", "conv2", "hidden")}
    assert magnitudes == {"conv1": 128, "pool": 1, "conv2": 1, "hidden": 1}
    for name in ("conv1", "conv2", "hidden"):
        largest = int(SPIKING[name].get_buffer("codes").flatten(1).int().abs().sum(1).max())
        assert spiking(name).largest_sum == largest * (128 if name == "conv1" else 1)
    assert spiking("pool").largest_sum == 4


def test_a_consumer_takes_the_mean_spike_value_of_its_producer() -> None:
    first, second = spiking("conv1"), spiking("conv2")
    assert second.input_unit == pytest.approx(float(first.spike_value.mean()))
    assert torch.equal(spiking("pool").spike_value, first.spike_value)
    rounding = 0.5 / float(first.threshold.min())
    assert float((first.spike_value / first.spike_value.mean() - 1).abs().max()) <= 2 * rounding


def test_decoding_uses_the_rounded_threshold() -> None:
    decode = SPIKING["decode"]
    assert isinstance(decode, Decode)
    torch.testing.assert_close(decode.spike_value.double(), spiking("hidden").spike_value)


def test_pooling_fires_at_the_size_of_its_window() -> None:
    pool = spiking("pool")
    assert (set(pool.threshold.tolist()), set(pool.leak.tolist()), pool.gain) == ({4}, {0}, 1)


def test_the_input_may_stay_analog() -> None:
    graph = SubstituteSpikes(V1, timesteps=64)(stages(seeded(Small), input_bits=None, bits=4)).after
    encode = graph["encode"]
    assert isinstance(encode, Encode)
    assert (encode.bits, encode.unit) == (None, 1.0)
    with torch.no_grad():
        assert graph(IMAGES).shape == (32, 5)


def test_with_many_steps_the_spiking_network_comes_near_the_quantised_one() -> None:
    def distance(timesteps: int) -> float:
        after = SubstituteSpikes(V1, timesteps=timesteps)(GRAPH).after
        with torch.no_grad():
            return float((after(IMAGES) - GRAPH(IMAGES)).abs().mean())

    assert distance(256) < distance(16) / 3


def test_all_layers_that_do_not_fit_a_register_are_named() -> None:
    narrow = HardwareTarget("narrow", registers=Registers(codebook=11, threshold=2, leak=19))
    with pytest.raises(TargetError) as caught:
        SubstituteSpikes(narrow)(GRAPH)
    assert [finding.layer for finding in caught.value.findings] == ["conv1", "conv2", "hidden"]
    assert "its threshold is" in str(caught.value)
    assert "the register holds 1 to 1 (narrow)" in str(caught.value)


def test_a_graph_that_is_not_ready_gets_the_passes_to_run() -> None:
    with pytest.raises(ModelError, match="Run QuantizeWeights first"):
        SubstituteSpikes(V1)(fxsnn.capture(seeded(Small)))
    with pytest.raises(ModelError, match="CalibrateThresholds first"):
        SubstituteSpikes(V1)(QuantizeWeights(2)(FoldBatchNorm()(fxsnn.capture(seeded(Small))).after).after)


@pytest.mark.parametrize("options", [{"timesteps": 0}, {"reset": "soft"}, {"initial_membrane": 1}])
def test_options_are_checked_when_the_pass_is_made(options: dict[str, object]) -> None:
    with pytest.raises(OptionError, match=next(iter(options))):
        SubstituteSpikes(V1, **options)  # type: ignore[arg-type]


@cases("bits", [2, 1, 3, 4], quick=1)
@pytest.mark.parametrize("scale", [0.0, 1e-4])
def test_dead_channels_do_not_stop_a_conversion_nor_take_much_of_the_gain(bits: int, scale: float) -> None:
    model, healthy = seeded(Small), seeded(Small)
    with torch.no_grad():
        for norm in (model.norm1, model.norm2):
            norm.weight[0] = scale
    gain = spiking("conv2", SubstituteSpikes(V1)(stages(model, bits=bits)).after).gain
    full = spiking("conv2", SubstituteSpikes(V1)(stages(healthy, bits=bits)).after).gain
    assert gain > full / 20
    assert gain == full or scale > 0 or bits == 1
