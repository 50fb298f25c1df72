"""Networks of images that change over time: each step reads its frame, in every engine, in files and in all that looks
into a network.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import read_network
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import fxsnn
from fxsnn.errors import DataError, FileError, OptionError
from fxsnn.file.schema_check import schema
from fxsnn.insight import accuracy, accuracy_over_time
from fxsnn.insight.effects import encoder_of
from fxsnn.storage import load_arrays, save_arrays
from tests.converted_graphs import Dense, Residual
from tests.engines import ENGINES
from tests.frames import STEPS, BesideItsImages, converted, frames
from tests.nets import Small, images, seeded
from tests.random_networks import quiet


def signals() -> nn.Module:
    return nn.Sequential(nn.Conv1d(2, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3))


NETWORKS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "a chain": (Small, (3, 12, 12)),
    "sums": (Residual, (3, 12, 12)),
    "vectors": (Dense, (20,)),
    "signals": (signals, (2, 8)),
}


class TestSpikes:
    @pytest.mark.parametrize("network", NETWORKS)
    @pytest.mark.parametrize("options", [{}, {"reset": "zero", "bits": 2}, {"input_bits": None}], ids=str)
    def test_are_the_same_in_every_engine(self, network: str, options: dict[str, Any]) -> None:
        build, size = NETWORKS[network]
        snn, given = converted(seeded(build), frames(size=size), **options), frames(5, size=size, seed=2)
        runs = []
        for engine in ENGINES:
            snn.engine = engine
            runs.append(snn.simulate(given))
        for run in runs[1:]:
            assert all(torch.equal(spikes, runs[0].spikes[name]) for name, spikes in run.spikes.items())
            assert run.membrane_range == runs[0].membrane_range
            assert torch.equal(run.logits, runs[0].logits)

    def test_of_frames_that_are_alike_are_those_of_a_still_image(self) -> None:
        given = images(8)
        with quiet():
            still = fxsnn.convert(seeded(Small), target="generic", bits=4, timesteps=STEPS, calibration_data=given)
        snn = converted(data=given.unsqueeze(1).expand(-1, STEPS, -1, -1, -1), correction="auto")
        moving = given.unsqueeze(1).repeat_interleave(STEPS, 1)
        one, other = still.simulate(given), snn.simulate(moving)
        assert all(torch.equal(one.spikes[name], other.spikes[name]) for name in one.spikes)

    def test_depend_on_the_order_of_frames_and_not_on_images_beside_them(self) -> None:
        snn, given = converted(), frames(4)
        assert not torch.equal(snn(given), snn(given.flip(1)))
        assert torch.equal(snn(given)[1:3], snn(given[1:3]))

    def test_up_to_a_step_do_not_know_later_frames(self) -> None:
        snn, given = converted(), frames(2)
        later = given.clone()
        later[:, 6:] = 0
        one, other = snn.simulate(given).spikes, snn.simulate(later).spikes
        assert all(torch.equal(one[name][:6], other[name][:6]) for name in one)

    def test_come_near_the_network_of_the_mean(self) -> None:
        model, given = seeded(Residual), frames(8, steps=64)
        snn = converted(model, given)
        pair = torch.stack([model(given.mean(1)).flatten(), snn(given).flatten()])
        assert torch.corrcoef(pair)[0, 1] > 0.99


class TestTimesteps:
    def test_are_as_many_as_frames(self) -> None:
        assert converted().timesteps == STEPS
        assert converted(data=[frames(4), frames(4)]).timesteps == STEPS
        assert converted(data={"image": frames(8)}).timesteps == STEPS
        assert converted(data=DataLoader(TensorDataset(frames(8), torch.zeros(8)), 4)).timesteps == STEPS
        assert converted(timesteps=STEPS).timesteps == STEPS

    def test_others_are_refused(self) -> None:
        with pytest.raises(OptionError, match=r"timesteps is 16, but images of the calibration data have 10 frames"):
            converted(timesteps=16)
        with pytest.raises(DataError, match=r"\[8, 10, 3, 12, 12\], that is 10 frames; expected \[N, 16, 3, H, W\]"):
            converted(data=(one for one in [frames()]), timesteps=16)  # they are seen once
        tuned_on = fxsnn.Finetune((frames(), torch.arange(8) % 5), epochs=1)
        with pytest.raises(OptionError, match=r"timesteps is 16, but images of the fine-tuning data have 10 frames"):
            fxsnn.convert(seeded(Small), target="generic", bits=4, input="frames", timesteps=16, finetune=tuned_on)

    def test_are_those_of_fine_tuning_data_where_there_are_no_others(self) -> None:
        tuned_on = fxsnn.Finetune((frames(), torch.arange(8) % 5), epochs=1, spiking_epochs=0)
        with quiet():
            snn = fxsnn.convert(seeded(Small), target="generic", bits=4, input="frames", finetune=tuned_on)
        assert snn.timesteps == STEPS

    def test_of_data_that_are_read_once_are_said(self) -> None:
        with pytest.raises(
            OptionError, match=r"data that may be read only once are not looked into .*; set timesteps to"
        ):
            converted(data=(one for one in [frames()]))
        assert converted(data=(one for one in [frames()]), timesteps=STEPS, correction="auto").timesteps == STEPS

    def test_can_be_changed_with_the_frames(self) -> None:
        snn = converted()
        with pytest.raises(DataError, match=r"7 frames; expected \[N, 10, 3, H, W\].* set timesteps to 7"):
            snn(frames()[:, :7])
        snn.timesteps = 7
        assert torch.equal(snn(frames()[:, :7]), converted(timesteps=STEPS).early_readout(frames())[6])
        assert "On 8 images" in str(snn.report)  # the sample has as many frames as are read
        snn.timesteps = 25
        assert "On 8 images" in str(snn.report)

    def test_without_data_are_what_was_asked_for(self) -> None:
        with quiet():
            snn = fxsnn.convert(seeded(Small), target="generic", bits=4, input="frames", timesteps=6, example=images())
        assert snn(frames(steps=6)).shape == (8, 5)


class TestImagesOfAnyDimension:
    @pytest.mark.parametrize("size", [(1, 8, 8), (4, 16), (64,)])
    def test_are_still_or_frames_as_they_were_given(self, size: tuple[int, ...]) -> None:
        model = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 3)))
        stills = torch.rand(3, *size, generator=torch.Generator().manual_seed(1))
        with quiet():
            snn = fxsnn.convert(model, target="generic", bits=4, input="frames", timesteps=5, example=stills)
        assert snn.image_size == size
        assert snn(stills.unsqueeze(1).repeat_interleave(5, 1)).shape == (3, 3)


class TestWhatCannotBeFrames:
    def test_is_refused(self) -> None:
        with pytest.raises(DataError, match=r"shape \[2, 12, 12\]|expected \[N, T, 3, H, W\]"):
            converted(data=images(8))
        with pytest.raises(DataError, match=r"expected \[N, 10, 3, H, W\]"):
            converted()(images(8))
        with pytest.raises(DataError, match=r"\[8, 10, 4, 12, 12\], that is 4 channels; expected \[N, 10, 3, H, W\]"):
            converted()(frames(size=(4, 12, 12)))
        with pytest.raises(OptionError, match=r"example has shape \[8, 10, 3, 12, 12\]; expected still .* frames.mean"):
            fxsnn.convert(seeded(Small), target="generic", bits=4, input="frames", example=frames())
        with pytest.raises(OptionError, match="input is 'movie'; allowed are 'constant', 'frames'"):
            fxsnn.convert(seeded(Small), target="generic", bits=4, input="movie")

    def test_frames_for_a_network_of_still_images_are_told_the_option(self) -> None:
        with quiet():
            snn = fxsnn.convert(seeded(Small), target="generic", bits=4, calibration_data=images())
        with pytest.raises(DataError, match=r"expected \[N, 3, H, W\].*convert\(\.\.\., input='frames'\)"):
            snn(frames())


@pytest.fixture(scope="module")
def snn() -> fxsnn.SpikingNetwork:
    return converted(seeded(Residual), codebook="symmetric")


class TestFiles:
    def test_bring_the_network_back(self, snn: fxsnn.SpikingNetwork, tmp_path: Path) -> None:
        file = snn.save(tmp_path / "net.fxsnn")
        back = fxsnn.load(file)
        assert torch.equal(back(frames()), snn(frames()))
        assert (back.image_size, back.timesteps, back.graph.image_form) == ((3, 12, 12), STEPS, snn.graph.image_form)
        assert fxsnn.verify(file).ok
        assert read_network.main(str(file)) == 0

    @pytest.mark.parametrize("network", ["vectors", "signals"])
    def test_hold_vectors_and_signals(self, network: str, tmp_path: Path) -> None:
        build, size = NETWORKS[network]
        file = converted(seeded(build), frames(size=size)).save(tmp_path / "net.fxsnn")
        assert fxsnn.verify(file).ok
        assert read_network.main(str(file)) == 0

    def test_have_version_4(self, snn: fxsnn.SpikingNetwork, tmp_path: Path) -> None:
        from jsonschema import Draft202012Validator
        from referencing import Registry, Resource

        document = load_arrays(snn.save(tmp_path / "net.fxsnn"))[1]
        earlier = [(f"file_v{one}.schema.json", Resource.from_contents(schema(one))) for one in (1, 2, 3)]
        Draft202012Validator(schema(4), registry=Registry().with_resources(earlier)).validate(document)
        assert (document["version"], document["nodes"][1]["frames"]) == (4, True)

    @pytest.mark.parametrize(("version", "frames_"), [(2, True), (4, False), (4, 10)])
    def test_of_other_words_are_refused(
        self, snn: fxsnn.SpikingNetwork, tmp_path: Path, version: int, frames_: object
    ) -> None:
        arrays, document = load_arrays(snn.save(tmp_path / "net.fxsnn"))
        document["version"] = version
        document["nodes"][1]["frames"] = frames_
        with pytest.raises(FileError, match=r"nodes\[1\]"):
            fxsnn.load(save_arrays(tmp_path / "other.fxsnn", arrays, document))

    def test_without_images_make_frames_of_noise(self, tmp_path: Path) -> None:
        with quiet():
            snn = fxsnn.convert(seeded(Small), target="generic", bits=4, input="frames", timesteps=6, example=images())
        assert fxsnn.verify(snn.save(tmp_path / "net.fxsnn")).ok

    def test_nir_says_them_too(self, snn: fxsnn.SpikingNetwork) -> None:
        with quiet():
            back = fxsnn.from_nir(fxsnn.to_nir(snn, differences="warn"))
        assert torch.equal(back(frames()), snn(frames()))
        read = fxsnn.nir_input(snn, frames(2))
        assert read.shape == (STEPS, 2, 3, 12, 12)
        assert torch.equal(read[3], encoder_of(snn)(frames(2)).unflatten(0, (STEPS, 2))[3])

    def test_say_how_large_a_frame_is(self, snn: fxsnn.SpikingNetwork) -> None:
        with pytest.raises(OptionError, match=r"image_size is \(2, 2\); allowed are channels, height and width"):
            fxsnn.to_nir(snn, image_size=(2, 2))


def test_other_programs_take_frames() -> None:
    snn = converted()
    program = torch.export.export(snn, (frames(2),)).module()
    torch.testing.assert_close(program(frames(2)), snn(frames(2)))


class TestTraining:
    def test_takes_frames(self) -> None:
        data = [(frames(8, seed=one), torch.arange(8) % 5) for one in range(3)]
        snn = converted(
            data=data, bits=2, finetune=fxsnn.Finetune(data, epochs=1, spiking_epochs=1, seed=0), correction="auto"
        )
        assert snn(frames()).shape == (8, 5)
        assert snn.timesteps == STEPS

    def test_is_reproducible(self) -> None:
        data = [(frames(8), torch.arange(8) % 5)]
        one, other = (converted(data=data, finetune=fxsnn.Finetune(data, epochs=1, seed=3)) for _ in range(2))
        assert torch.equal(one(frames()), other(frames()))


class TestInsight:
    labelled = (frames(16), torch.arange(16) % 5)

    @pytest.mark.parametrize("build", [Small, Residual, BesideItsImages])
    @pytest.mark.parametrize("input_bits", [8, None])
    def test_the_last_stage_makes_the_very_spikes(self, build: Any, input_bits: int | None) -> None:
        model = seeded(build)
        snn, given = converted(model, input_bits=input_bits), frames(4)
        stages = fxsnn.stage_networks(model, snn)
        torch.testing.assert_close(stages["timing"](given.double()).float(), snn(given), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(stages["ann"](given.double()).float(), model(given.mean(1)), rtol=1e-4, atol=1e-4)

    def test_budget_sweep_and_accuracies_take_frames(self) -> None:
        model = seeded(Small)
        snn = converted(model)
        budget = fxsnn.error_budget(model, snn, self.labelled)
        assert budget.images == 16
        swept = fxsnn.sweep(snn, self.labelled, model=model)
        assert swept.points[-1].timesteps == STEPS
        assert accuracy(snn, [self.labelled]) == accuracy_over_time(snn, [self.labelled], STEPS)[-1]

    def test_multiplications_are_those_of_every_step(self) -> None:
        assert "(multiplications)" in str(converted().report)
