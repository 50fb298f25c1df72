"""Networks whose activations have an upper end, from conversion to the saved file: thresholds are known."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxsnn
from fxsnn.errors import AccuracyWarning
from tests.clipped import BOUNDED, LEVELS, SHIFTED, Levels, Own, network
from tests.nets import images, seeded

Convert = Callable[..., fxsnn.SpikingNetwork]
IMAGES = images(32)


def model(*activations: nn.Module) -> Any:
    return seeded(lambda: network(*(activations or (Levels(1.5, 4), nn.Hardtanh(0, 0.3)))))


def spike_values(snn: fxsnn.SpikingNetwork) -> list[float]:
    return [float(layer.spike_value.mean()) for layer in snn.modules() if isinstance(layer, fxsnn.SpikeConv2d)]


class TestConversion:
    @pytest.mark.parametrize("data", [IMAGES, None])
    def test_a_spike_is_worth_the_upper_end(self, convert: Convert, data: Tensor | None) -> None:
        snn = convert(model(), target="generic", bits=4, calibration_data=data, average_pool="plain")
        assert spike_values(snn) == [pytest.approx(1.5, rel=0.02), pytest.approx(0.3, rel=0.02)]

    def test_nothing_is_warned_of(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            fxsnn.convert(model(), target="generic", bits=4, calibration_data=IMAGES)

    def test_rates_come_near_the_activations_with_many_steps(self, convert: Convert) -> None:
        shifted = (SHIFTED[name][0] for name in ("Hardsigmoid", "Hardtanh", "without a lower end"))
        for build in (BOUNDED["PACT"][0], BOUNDED["F.hardtanh"][0], LEVELS["round"][0], *shifted):
            own = model(build(), nn.ReLU6())
            snn = convert(own, target="generic", bits=4, calibration_data=IMAGES, timesteps=256)
            with torch.no_grad():
                both = torch.stack((own(IMAGES).flatten(), snn(IMAGES).flatten()))
            assert float(torch.corrcoef(both)[0, 1]) > 0.95

    @pytest.mark.parametrize(("bound", "levels"), [(4.0, 4), (2.0, 8), (8.0, 1)])
    def test_with_as_many_steps_as_levels_the_first_layer_is_the_networks_own(
        self, convert: Convert, bound: float, levels: int
    ) -> None:
        """Its drive is steady: where all numbers are integers of the chip, spike counts are the levels themselves."""
        net: Any = nn.Sequential(nn.Conv2d(1, 4, 3), Levels(bound, levels), nn.Flatten(), nn.Linear(400, 3)).eval()
        draw = torch.Generator().manual_seed(0)
        with torch.no_grad():
            net[0].weight.copy_(torch.randint(-7, 8, (4, 1, 3, 3), generator=draw) / 8)
            net[0].weight[:, 0, 0, 0] = 7 / 8  # the step is an eighth
            net[0].bias.copy_(torch.randint(-8, 9, (4,), generator=draw) / 8)
        given = torch.randint(-127, 128, (8, 1, 12, 12), generator=draw) / 64
        given[:, 0, 0, 0] = 127 / 64  # and that of the input a 64th
        snn = convert(net, target="generic", bits=4, calibration_data=given, timesteps=levels, correction=None)
        (counts,) = snn.count_spikes(given).values()
        with torch.no_grad():
            assert torch.equal(counts * (bound / levels), net[:2](given))

    def test_signals_and_vectors_too(self, convert: Convert) -> None:
        signals = nn.Sequential(
            nn.Conv1d(2, 8, 5), Levels(1.0, 4), nn.Conv1d(8, 8, 3), nn.ReLU6(), nn.Flatten(), nn.Linear(144, 3)
        )
        vectors = nn.Sequential(nn.Linear(6, 8), Own(lambda _, x: x.clamp(0, 0.5)), nn.Linear(8, 3))
        for net, data in ((signals, torch.randn(16, 2, 24)), (vectors, torch.randn(16, 6))):
            snn = convert(net.eval(), target="generic", bits=4, calibration_data=data, timesteps=4)
            assert snn(data).shape == (16, 3)

    def test_double_and_half_precision_know_the_same_ends(self, convert: Convert) -> None:
        for dtype in (torch.float64, torch.bfloat16):
            snn = convert(model().to(dtype), target="generic", bits=4, calibration_data=IMAGES.to(dtype))
            assert spike_values(snn)[0] == pytest.approx(1.5, rel=0.02)

    def test_check_promises_what_convert_keeps(self) -> None:
        assert fxsnn.check(model(), target="hw_v1.0", bits=4).ok
        signed = model(nn.Hardtanh(-1, 1), nn.ReLU6())
        report = fxsnn.check(signed, target="hw_v1.0", bits=4)
        assert not report.ok
        assert "use an activation that begins at zero, such as nn.Hardtanh(0, c)" in str(report)
        assert fxsnn.check(signed, target="generic", bits=4).ok
        signed[3] = nn.Conv2d(8, 8, 3)
        signed[8] = nn.Linear(32, 5)
        assert fxsnn.check(signed, target="hw_v1.0", bits=4, example=IMAGES).ok


class TestAfterwards:
    LABELS = torch.arange(32) % 5

    def test_fine_tuning_and_correction_go_on_from_there(self, convert: Convert) -> None:
        tune = fxsnn.Finetune((IMAGES, self.LABELS), epochs=1, distillation=0.5, batch_size=16)
        for options in ({"finetune": tune}, {"correction": "both"}, {"finetune": tune, "correction": "thresholds"}):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", AccuracyWarning)
                snn = convert(model(), calibration_data=IMAGES, timesteps=4, **options)
            assert bool(snn(IMAGES).isfinite().all())

    def test_the_error_budget_begins_with_the_networks_own_function(self, convert: Convert) -> None:
        own = model()
        snn = convert(own, bits=4, calibration_data=IMAGES, timesteps=4, calibration="percentile")
        stages = fxsnn.stage_networks(own, snn)
        with torch.no_grad():
            torch.testing.assert_close(stages["ann"](IMAGES.double()).float(), own(IMAGES), atol=1e-4, rtol=1e-4)
            assert torch.equal(stages["input"](IMAGES.double()), stages["clipping"](IMAGES.double()))
        budget = fxsnn.error_budget(own, snn, (IMAGES, self.LABELS))
        assert [row.sizes["clipping"] for row in budget.layers if row.kind == "SpikeConv2d"] == [0, 0]
        assert budget.stages[1].distance == budget.stages[2].distance

    def test_a_sweep_and_a_file_know_nothing_else(self, convert: Convert, tmp_path: Path) -> None:
        snn = convert(model(), bits=4, calibration_data=IMAGES, timesteps=4)
        assert len(fxsnn.sweep(snn, (IMAGES, self.LABELS), timesteps=4).points) == 4
        snn.save(tmp_path / "net.fxsnn")
        assert fxsnn.verify(tmp_path / "net.fxsnn").ok
        assert torch.equal(fxsnn.load(tmp_path / "net.fxsnn")(IMAGES), snn(IMAGES))
