"""Average poolings become layers with weights: the same function, a threshold and a bias of their own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import fxsnn
from fxsnn.errors import OptionError
from fxsnn.insight import error_budget
from fxsnn.layers import SpikeAvgPool2d, SpikeConv2d
from fxsnn.passes import CheckConvRelu, WeighPoolings
from tests.nets import Small, images, in_front, seeded

GENERIC = fxsnn.get_target("generic")
IMAGES = images(16)


class Pooled(nn.Module):
    """3x12x12: two convolutions, and between them a pooling, or what is put there."""

    def __init__(self, pool: nn.Module) -> None:
        super().__init__()
        self.conv1, self.relu1 = nn.Conv2d(3, 6, 3, padding=1), nn.ReLU()
        self.pool = pool
        self.conv2, self.relu2 = nn.Conv2d(6, 8, 3, padding=1), nn.ReLU()
        self.fc = nn.LazyLinear(5)
        with torch.no_grad():
            self(IMAGES)

    def forward(self, x: Tensor) -> Any:
        x = self.relu1(self.conv1(x))
        x = self.relu2(self.conv2(self.pool(x)))
        return self.fc(x.flatten(1))


def pooled(pool: nn.Module | None = None) -> nn.Module:
    model: nn.Module = seeded(lambda: Pooled(nn.AvgPool2d(2) if pool is None else pool))
    return model


def kind_of(snn: fxsnn.SpikingNetwork) -> type[nn.Module]:
    return type(snn.graph["pool"])


@given(
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padded=st.tuples(st.booleans(), st.booleans()),
)
def test_the_function_is_kept(kernel: tuple[int, int], stride: tuple[int, int], padded: tuple[bool, bool]) -> None:
    tall, wide = (side // 2 if flag else 0 for side, flag in zip(kernel, padded, strict=True))
    model = pooled(nn.AvgPool2d(kernel, stride, (tall, wide)))
    before = in_front(model, IMAGES)
    after = WeighPoolings(GENERIC, bits=4)(before, IMAGES).after  # verified
    assert isinstance(after["pool"], nn.Conv2d)
    assert not CheckConvRelu().findings(after)
    torch.testing.assert_close(after(IMAGES), model(IMAGES), rtol=1e-4, atol=1e-5)


class TestConversion:
    @pytest.mark.parametrize("bits", [1, 2, 4])
    @pytest.mark.parametrize("correction", [None, "auto", "all"])
    def test_is_that_of_a_layer_written_in_its_place(self, convert: Any, bits: int, correction: Any) -> None:
        model = pooled()
        written = nn.Conv2d(6, 6, 2, 2, groups=6, bias=False)
        nn.init.constant_(written.weight, 1 / 4)
        other: Any = pooled()
        other.pool = nn.Sequential(written, nn.ReLU())
        options = {"target": "generic", "bits": bits, "calibration_data": IMAGES, "correction": correction}
        ours, theirs = convert(model, **options), convert(other, **options)
        one, two = ours.simulate(IMAGES), theirs.simulate(IMAGES)
        assert all(torch.equal(one.spikes[name], two.spikes[name.replace("pool", "pool.0")]) for name in one.spikes)

    def test_gives_a_threshold_below_the_largest_mean(self, convert: Any) -> None:
        values = []
        for way in ("auto", "plain"):
            snn = convert(pooled(), target="generic", bits=4, calibration_data=IMAGES, average_pool=way)
            values.append(float(snn.graph["pool"].spike_value.max()))
        assert values[0] < 0.9 * values[1]

    def test_is_nearer_to_the_network_with_few_steps(self, convert: Any) -> None:
        model, errors = pooled(nn.AvgPool2d(3)), []
        for way in ("auto", "plain"):
            options = {"bits": 4, "timesteps": 8, "calibration_data": images(200), "correction": "auto"}
            snn = convert(model, target="generic", average_pool=way, **options)
            given = images(100, seed=5)
            errors.append(float((snn(given) - model(given)).square().mean().detach()))
        assert errors[0] < errors[1]

    def test_goes_into_files_and_what_looks_into_networks(self, convert: Any, tmp_path: Path) -> None:
        model = pooled()
        snn = convert(model, target="generic", bits=2, calibration_data=IMAGES, correction="auto")
        snn.save(tmp_path / "net.fxsnn")
        assert fxsnn.verify(tmp_path / "net.fxsnn").ok
        assert "pool" in str(error_budget(model, snn, IMAGES))
        assert [row.kind for row in snn.report.layers] == ["SpikeConv2d"] * 3

    def test_can_be_trained(self, convert: Any) -> None:
        finetune = fxsnn.Finetune((IMAGES, torch.arange(16) % 5), epochs=1)
        snn = convert(pooled(), target="generic", bits=2, calibration_data=IMAGES, finetune=finetune)
        assert kind_of(snn) is SpikeConv2d

    def test_takes_a_pooling_that_is_called_twice(self, convert: Any) -> None:
        class Twice(Pooled):
            def forward(self, x: Tensor) -> Any:
                x = self.pool(self.relu1(self.conv1(x)))
                return self.fc(self.relu2(self.conv2(self.pool(x))).flatten(1))

        model = seeded(lambda: Twice(nn.AvgPool2d(2)))
        snn = convert(model, target="generic", bits=4, timesteps=64, calibration_data=IMAGES, correction="auto")
        assert [row.kind for row in snn.report.layers] == ["SpikeConv2d"] * 4
        pair = torch.stack([model(IMAGES).flatten(), snn(IMAGES).flatten()])
        assert torch.corrcoef(pair.detach())[0, 1] > 0.99


class TestAPoolingStays:
    @pytest.mark.parametrize("options", [{"average_pool": "plain"}, {"calibration_data": None}], ids=str)
    def test_where_it_is_to_or_nothing_is_calibrated(self, convert: Any, options: dict[str, Any]) -> None:
        snn = convert(pooled(), **{"target": "generic", "bits": 4, "calibration_data": IMAGES, **options})
        assert kind_of(snn) is SpikeAvgPool2d

    def test_where_the_chip_has_no_such_convolution(self, convert: Any) -> None:
        assert kind_of(convert(pooled(), bits=2, calibration_data=IMAGES)) is SpikeAvgPool2d
        assert kind_of(convert(pooled(nn.AvgPool2d(3)), bits=2, calibration_data=IMAGES)) is SpikeConv2d
        chip = replace(GENERIC, name="without", input_channels={(3, 3): {2: 64}, (2, 2): {4: 64}})
        assert kind_of(convert(pooled(), target=chip, bits=2, calibration_data=IMAGES)) is SpikeAvgPool2d
        mixed = convert(pooled(), target=chip, bits="auto", calibration_data=IMAGES)
        assert {row.layer: row.bits for row in mixed.report.layers} == {"conv1": 2, "pool": 4, "conv2": 2}

    def test_where_it_reads_images(self, convert: Any) -> None:
        model = seeded(lambda: nn.Sequential(nn.AvgPool2d(2), Pooled(nn.Identity())))
        graph = in_front(model, images(4, size=24))
        assert WeighPoolings(GENERIC, bits=4)(graph, images(4, size=24)).diff().summary() == "nothing changed"


def test_other_ways_are_refused() -> None:
    with pytest.raises(OptionError, match="average_pool is 'max'; allowed are 'auto', 'plain'"):
        fxsnn.convert(seeded(Small), target="generic", bits=4, average_pool="max")
