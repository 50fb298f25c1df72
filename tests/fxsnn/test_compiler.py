"""`convert` and `pipeline`: everything up front, all at once, and the user's model untouched."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

import fxsnn
from fxsnn.errors import (
    AccuracyWarning,
    CalibrationWarning,
    DataError,
    ModelError,
    OptionError,
    UnknownName,
)
from fxsnn.layers import Spiking
from fxsnn.passes import FRONT_END
from tests.nets import CONVERTIBLE, Small, images, seeded
from tests.sharing import cases

Convert = Callable[..., fxsnn.SpikingNetwork]


class TestConvert:
    @pytest.mark.parametrize("name", CONVERTIBLE)
    @cases("bits", [1, 2, 3, 4], quick=1)
    def test_it_works_with_nothing_else(self, convert: Convert, name: str, bits: int) -> None:
        model = seeded(CONVERTIBLE[name])
        snn = convert(model, bits=bits)
        with torch.no_grad():
            assert snn(images()).shape == model(images()).shape
        assert sum(isinstance(module, Spiking) for module in snn.modules()) >= 2

    @pytest.mark.parametrize("norm", [True, False])
    def test_thresholds_without_data_serve_at_four_bits_and_many_steps(self, convert: Convert, norm: bool) -> None:
        torch.manual_seed(0)
        model = Small(norm=norm, bias=True)
        for _ in range(50):
            model(torch.randn(64, 3, 12, 12))
        model.eval()
        snn = convert(model, bits=4, timesteps=256)
        with torch.no_grad():
            expected, found = model(images(64)), snn(images(64))
        correlation = torch.corrcoef(torch.stack([expected.flatten(), found.flatten()]))[0, 1]
        assert correlation > 0.95

    @pytest.mark.parametrize(
        ("codebook", "levels"),
        [("auto", {4}), ("symmetric", {3}), ("full", {4})],
    )
    def test_levels_are_those_that_are_asked_for_and_otherwise_any_that_the_target_has(
        self, convert: Convert, codebook: str, levels: set[int]
    ) -> None:
        snn = convert(seeded(Small), bits=2, codebook=codebook)
        assert {len(row.levels) for row in snn.report.layers if row.levels} == levels
        assert snn.provenance["options"]["codebook"] == ("free" if codebook == "auto" else codebook)

    def test_levels_that_the_target_has_not_are_refused_at_once(self, convert: Convert) -> None:
        chip = fxsnn.HardwareTarget("chip", codebook="full")
        with pytest.raises(OptionError, match="codebook is 'free'; target 'chip' allows 'symmetric', 'full', 'auto'"):
            convert(seeded(Small), target=chip, bits=2, codebook="free")

    def test_it_warns_that_data_would_do_better(self) -> None:
        with pytest.warns(CalibrationWarning, match="calibration_data= gives better ones"):
            fxsnn.convert(seeded(Small), target="hw_v1.0", bits=4)

    @pytest.mark.parametrize(("bits", "correction"), [(1, "auto"), (1, None), (2, "biases"), (2, None)])
    def test_it_warns_that_few_bits_need_fine_tuning(self, bits: int, correction: str | None) -> None:
        with pytest.warns(AccuracyWarning, match=f"{bits}-bit weights without fine-tuning"):
            fxsnn.convert(
                seeded(Small), target="hw_v1.0", bits=bits, calibration_data=images(64), correction=correction
            )

    def test_it_does_not_where_two_bits_were_chosen_on_the_data(self) -> None:
        fxsnn.convert(seeded(Small), target="hw_v1.0", bits=2, calibration_data=images(64))  # a warning is an error

    def test_the_model_is_not_changed(self, convert: Convert) -> None:
        model = seeded(Small).train()
        fired: list[int] = []
        handle = model.conv1.register_forward_hook(lambda *_: fired.append(1))
        state, random_state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
        snn = convert(model, calibration_data=images(32))
        snn.double()
        snn(images(2).double())
        assert model.training
        assert fired == [1]
        assert handle.id in model.conv1._forward_hooks
        assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
        assert torch.equal(torch.get_rng_state(), random_state)
        assert model.fc.weight.dtype == torch.float32

    def test_the_final_layer_keeps_its_name_and_every_bit(self, convert: Convert) -> None:
        model = seeded(Small)
        layer = convert(model).get_submodule("fc")
        assert type(layer) is nn.Linear
        assert torch.equal(layer.weight, model.fc.weight)
        assert torch.equal(layer.bias, model.fc.bias)
        assert layer.weight.data_ptr() != model.fc.weight.data_ptr()

    def test_two_conversions_give_one_network(self, convert: Convert) -> None:
        first, second = (convert(seeded(Small), calibration_data=images(32)) for _ in range(2))
        assert first.graph.text() == second.graph.text()

    def test_the_calibration_method_matters(self, convert: Convert) -> None:
        def spike_value(**options: Any) -> float:
            return convert(seeded(Small), calibration_data=images(32), **options).report.layers[0].spike_value or 0.0

        assert spike_value(calibration="max") > spike_value(percentile=90.0)

    def test_a_name_that_the_spiking_network_needs_is_refused_before_any_work(self) -> None:
        model = seeded(Small)
        model.add_module("report", nn.ReLU())
        wrapped = nn.Sequential(model.conv1, model.relu1)
        wrapped.add_module("timesteps", nn.Flatten())
        wrapped.add_module("fc", nn.Linear(8 * 144, 2))
        with pytest.raises(ModelError, match="a layer cannot be named 'timesteps'"):
            fxsnn.convert(wrapped, target="hw_v1.0", bits=2)

    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"bits": 0}, OptionError, "bits is 0; target 'hw_v1.0' allows 1, 2, 3, 4"),
            ({"bits": 5}, OptionError, "bits is 5"),
            ({"bits": "two"}, OptionError, "bits is 'two'"),
            ({"timesteps": 0}, OptionError, "timesteps is 0"),
            ({"timesteps": -1}, OptionError, "timesteps is -1"),
            ({"timesteps": 2.5}, OptionError, "timesteps is 2.5"),
            ({"reset": "soft"}, OptionError, "reset is 'soft'"),
            ({"target": "hw_v9"}, UnknownName, "unknown target 'hw_v9'; known: generic, hw_v1.0"),
            ({"calibration": "median"}, OptionError, "calibration method is 'median'"),
            ({"calibration_data": []}, DataError, "calibration data is empty"),
            ({"input_bits": 40}, OptionError, "input_bits is 40"),
            (
                {"finetune": [(images(), 0)]},
                OptionError,
                r"finetune is a list; expected fxsnn.Finetune\(data, \.\.\.\)",
            ),
            ({"example": images(channels=1)}, DataError, "that is 1 channels"),
            (
                {"example": images(size=9)},
                DataError,
                r"calibration images of shape \[4, 3, 9, 9\]",
            ),
            (
                {"calibration_data": images(size=9)},
                DataError,
                r"calibration images of shape \[2, 3, 9, 9\]",
            ),
            ({"calibration_data": images() / 0}, DataError, "infinite|NaN"),
        ],
    )
    def test_a_wrong_option_gets_a_clear_error(
        self, convert: Convert, options: dict[str, Any], error: type[Exception], message: str
    ) -> None:
        with pytest.raises(error, match=message):
            convert(seeded(Small), **options)


class Viewed(nn.Module):
    """It flattens in a way that makes more images out of pixels which are too many."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.hidden = nn.Linear(height * width, 8)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.avg_pool2d(F.relu(self.conv(x)), 2).view(-1, self.hidden.in_features)
        return cast("torch.Tensor", self.fc(F.relu(self.hidden(x))))


class TestTheSizeOfImages:
    @cases("side", [8, 28, 14, 16, 40], quick=2)
    def test_is_found_where_a_view_takes_any(
        self, convert: Convert, side: int, capfd: pytest.CaptureFixture[str]
    ) -> None:
        snn = convert(seeded(lambda: Viewed(side, side)))
        assert snn.image_size == (1, side, side)
        assert capfd.readouterr().err == ""

    def test_is_not_looked_for_in_a_stream_that_can_be_read_once(self, convert: Convert) -> None:
        class Stream(IterableDataset[torch.Tensor]):
            def __init__(self) -> None:
                self.images = iter(images(8))

            def __iter__(self) -> Iterator[torch.Tensor]:
                return self.images

        # One batch, as of the tensor: on some processors a convolution rounds otherwise in batches of another size.
        streamed = convert(seeded(Small), calibration_data=DataLoader(Stream(), 8))
        assert streamed.graph.text() == convert(seeded(Small), calibration_data=images(8)).graph.text()

    def test_is_that_of_images_that_can_be_read_once(self, convert: Convert) -> None:
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        snn = convert(model.eval(), calibration_data=iter([images(3, size=20), images(2, size=20)]))
        assert snn.image_size == (3, 20, 20)
        assert "On 3 images" in str(snn.report)

    def test_a_loader_that_is_its_own_iterator_may_start_again(self, convert: Convert) -> None:
        class Restarting(Iterator[torch.Tensor]):
            left = 0

            def __iter__(self) -> Iterator[torch.Tensor]:
                self.left = 2
                return self

            def __next__(self) -> torch.Tensor:
                if not self.left:
                    raise StopIteration
                self.left -= 1
                return images(4)

        loader = Restarting()
        assert len(list(loader)) == 2
        assert convert(seeded(Small), calibration_data=loader).report.images == 4

    @pytest.mark.parametrize("size", [(16, 16), (12, 40)])
    def test_is_that_of_the_calibration_images(
        self, convert: Convert, size: tuple[int, int], caplog: pytest.LogCaptureFixture
    ) -> None:
        data = torch.rand(4, 1, *size, generator=torch.Generator().manual_seed(0))
        with caplog.at_level("INFO", "fxsnn.rewriting.pipeline"):
            snn = convert(seeded(lambda: Viewed(*size)), calibration_data=data)
        assert snn.image_size == (1, *size)
        assert snn(data).shape == (4, 5)
        assert "not verified" not in caplog.text
        assert "outputs moved by" in caplog.text


class TestPipeline:
    @pytest.mark.parametrize("progress", [True, False])
    def test_progress_is_shown_by_all_passes_that_take_long(self, *, progress: bool) -> None:
        passes = fxsnn.pipeline(
            target="hw_v1.0",
            bits=2,
            calibration_data=images(8),
            correction="both",
            finetune=fxsnn.Finetune((images(8), torch.zeros(8, dtype=torch.long))),
            progress=progress,
        ).passes
        shown = {one.name: one.progress for one in passes if hasattr(one, "progress")}
        assert shown == dict.fromkeys(["calibrate-thresholds", "correct-layers", "finetune"], progress)

    def test_it_has_the_designs_order(self) -> None:
        passes = fxsnn.pipeline(target="hw_v1.0", bits=2, finetune=fxsnn.Finetune([1])).passes
        assert [one.name for one in passes] == [
            *(one.name for one in FRONT_END), "check-conv-relu", "check-limits",
            "fold-batch-norm", "calibrate-thresholds", "quantize-weights", "correct-layers", "finetune",
            "substitute-spikes",
        ]  # fmt: skip

    def test_every_stage_runs_on_images(self) -> None:
        passes = fxsnn.pipeline(target="hw_v1.0", bits=4, calibration_data=images(32), timesteps=64)
        model = seeded(Small)
        with torch.no_grad():
            expected = model(images())
            for step in passes.steps(model):
                found = step.after(images())
                assert found.shape == expected.shape
                assert torch.corrcoef(torch.stack([expected.flatten(), found.flatten()]))[0, 1] > 0.9

    def test_each_pass_runs_alone_on_the_graph_of_the_one_before(self) -> None:
        passes = fxsnn.pipeline(target="hw_v1.0", bits=4, calibration_data=images(16))
        graph = fxsnn.capture(seeded(Small))
        for one in passes.passes:
            graph = one(graph).after
        assert graph.text() == passes.run(seeded(Small)).text()

    def test_it_gives_the_graph_that_convert_uses(self, convert: Convert) -> None:
        options: dict[str, Any] = {"target": "hw_v1.0", "bits": 3, "calibration_data": images(32), "timesteps": 4}
        options["correction"] = "biases"
        assert convert(seeded(Small), **options).graph.text() == fxsnn.pipeline(**options).run(seeded(Small)).text()
