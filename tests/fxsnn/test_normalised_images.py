"""Networks that normalise their images themselves: the shift that a padded convolution cannot take is the input's."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxsnn
from fxsnn.graph import capture
from fxsnn.insight.effects import layer_activations, stage_networks
from fxsnn.layers import Affine, Encode, ImageForm, QuantizedInput, unlike_calibration
from fxsnn.passes import FRONT_END
from fxsnn.passes.calibrate_thresholds import CalibrateThresholds
from tests.engines import ENGINES
from tests.nets import seeded
from tests.random_networks import quiet
from tests.sharing import cases

READER = Path(__file__).parents[2] / "examples" / "read_network.py"


class Normalise(nn.Module):
    """As people write it who keep everything in the network."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.25, 0.5, 0.75]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.25, 0.5, 0.125]).view(1, 3, 1, 1))

    def forward(self, x: Tensor) -> Any:
        return (x - self.mean) / self.std


def network() -> Any:
    return seeded(
        lambda: nn.Sequential(
            Normalise(),
            nn.Conv2d(3, 6, 3, padding=1),
            nn.ReLU(),
            nn.AvgPool2d(2),
            nn.Conv2d(6, 6, 3),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(96, 5),
        )
    )


def given(count: int = 16, seed: int = 1) -> Tensor:
    """Images in 1/64, so that normalising them is exact in any type."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 65, (count, 3, 12, 12), generator=generator) / 64


def converted(model: nn.Module, images: Tensor | None, **options: Any) -> fxsnn.SpikingNetwork:
    with quiet():
        return fxsnn.convert(
            model,
            **{
                "target": "generic",
                "bits": 4,
                "timesteps": 16,
                "codebook": "symmetric",
                "correction": None,
                "calibration_data": images,
                **options,
            },
        )


@pytest.fixture(scope="module")
def model() -> Any:
    return network()


@pytest.fixture(scope="module")
def snn(model: Any) -> fxsnn.SpikingNetwork:
    return converted(model, given())


def encoder(snn: fxsnn.SpikingNetwork) -> Encode:
    return next(module for module in snn.modules() if isinstance(module, Encode))


class TestNormalisingInTheNetwork:
    def test_is_the_same_as_normalising_before_it(self, model: Any, snn: fxsnn.SpikingNetwork) -> None:
        """The same integers of images, of layers, and the same outputs."""
        plain = converted(model[1:], model[0](given()))
        assert encoder(snn).unit == encoder(plain).unit
        images = given(4, seed=2)
        assert torch.equal(fxsnn.nir_input(snn, images), fxsnn.nir_input(plain, model[0](images)))
        assert torch.equal(snn(images), plain(model[0](images)))

    @cases("correction", ["both", "biases"], quick=1)
    def test_is_the_same_to_corrections(self, model: Any, correction: str) -> None:
        snn = converted(model, given(), correction=correction)
        plain = converted(model[1:], model[0](given()), correction=correction)
        assert torch.equal(snn(given(4)), plain(model[0](given(4))))

    def test_is_the_same_to_training(self, model: Any) -> None:
        labels = torch.arange(16) % 5
        tuned = [
            converted(net, images, bits=2, finetune=fxsnn.Finetune((images, labels), epochs=1, seed=0))
            for net, images in ((model, given()), (model[1:], model[0](given())))
        ]
        assert torch.equal(tuned[0](given(4)), tuned[1](model[0](given(4))))
        assert encoder(tuned[0]).affine is not None

    def test_is_the_same_for_an_analog_input(self, model: Any) -> None:
        snn = converted(model, given(), input_bits=None)
        plain = converted(model[1:], model[0](given()), input_bits=None)
        assert torch.equal(snn(given(4)), plain(model[0](given(4))))

    def test_is_the_same_without_data(self, model: Any) -> None:
        snn, plain = (converted(net, None, example=given(2)) for net in (model, model[1:]))
        assert torch.equal(snn(given(4)), plain(model[0](given(4))))

    def test_is_seen_by_nobody_but_the_input(self, snn: fxsnn.SpikingNetwork) -> None:
        assert not snn.graph.nodes(Affine, Normalise)
        affine = encoder(snn).affine
        assert affine is not None
        assert affine.scale.tolist() == [4, 2, 8]
        assert affine.shift.tolist() == [-1, -1, -6]


@pytest.mark.parametrize("engine", ENGINES)
@cases("bits", [8, None], quick=1)
def test_every_engine_makes_the_same_spikes(model: Any, engine: str, bits: int | None) -> None:
    snn = converted(model, given(), input_bits=bits)
    snn.engine = "torch"
    wanted = snn(given(4))
    snn.engine = engine
    assert torch.equal(snn(given(4)), wanted)


def test_a_trained_graph_gives_its_affine_back_to_another_calibration(model: Any) -> None:
    graph = capture(model, given())
    for one in (*FRONT_END, fxsnn.passes.CheckConvRelu(), fxsnn.passes.FoldBatchNorm(), CalibrateThresholds(given())):
        graph = one(graph).after
    (node,) = graph.nodes(QuantizedInput)
    assert graph[node].affine is not None
    assert not graph.nodes(Affine)
    again = CalibrateThresholds(given())(graph)
    assert again.diff().summary() == "nothing changed"


class TestTheFile:
    def test_holds_the_affine_and_reads_it_back(self, snn: fxsnn.SpikingNetwork, tmp_path: Path) -> None:
        snn.save(tmp_path / "net.fxsnn")
        loaded = fxsnn.load(tmp_path / "net.fxsnn")
        assert torch.equal(loaded(given(4)), snn(given(4)))
        assert fxsnn.verify(tmp_path / "net.fxsnn").ok
        assert {name: str(one.dtype) for name, one in loaded.state_dict().items() if "encode.affine" in name} == {
            "encode.affine.scale": "torch.float64",
            "encode.affine.shift": "torch.float64",
        }

    def test_is_read_by_numpy_alone(self, snn: fxsnn.SpikingNetwork, tmp_path: Path) -> None:
        snn.save(tmp_path / "net.fxsnn")
        ran = subprocess.run(
            [sys.executable, READER, tmp_path / "net.fxsnn"], check=False, capture_output=True, text=True
        )
        assert ran.returncode == 0, ran.stdout
        assert "wrong" in ran.stdout

    def test_is_of_version_2_and_only_then(self, model: Any, snn: fxsnn.SpikingNetwork, tmp_path: Path) -> None:
        for net, version in ((snn, 2), (converted(model[1:], model[0](given())), 1)):
            net.save(tmp_path / f"{version}.fxsnn")
            assert document(tmp_path / f"{version}.fxsnn")["version"] == version
        node = document(tmp_path / "2.fxsnn")["nodes"][1]
        assert (node["op"], node["affine"], node["channels"]) == ("encode", 3, 3)

    def test_is_promised_by_check(self, model: Any) -> None:
        assert fxsnn.check(model, target="generic", bits=4, example=given()).unwritable == ()


def document(path: Path) -> Any:
    content = path.read_bytes()
    return json.loads(json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]["fxsnn"])


class TestOtherPrograms:
    def test_nir_reads_the_integer_input(self, model: Any) -> None:
        pytest.importorskip("nir")
        snn = converted(model, given(), reset="zero", initial_membrane=0)
        again = fxsnn.from_nir(fxsnn.to_nir(snn))
        assert torch.equal(fxsnn.nir_input(again, given(4)), fxsnn.nir_input(snn, given(4)))
        assert torch.equal(again(given(4)), snn(given(4)))

    @pytest.mark.filterwarnings("ignore")
    def test_torch_jit_trace_has_it(self, snn: fxsnn.SpikingNetwork) -> None:
        assert torch.equal(torch.jit.trace(snn, given(2))(given(2, seed=5)), snn(given(2, seed=5)))

    def test_torch_export_has_it(self, snn: fxsnn.SpikingNetwork) -> None:
        program = torch.export.export(snn, (given(2),))
        torch.testing.assert_close(program.module()(given(2, seed=5)), snn(given(2, seed=5)), rtol=1e-6, atol=1e-6)

    @pytest.mark.slow
    @pytest.mark.filterwarnings("ignore")
    def test_onnx_has_it(self, model: Any) -> None:
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnx")
        from onnx.reference import ReferenceEvaluator

        snn = converted(model, given(), timesteps=2)
        program = torch.onnx.export(snn, (given(2),), dynamo=True, verbose=False)
        assert program is not None
        (name,) = [one.name for one in program.model_proto.graph.input]
        (found,) = ReferenceEvaluator(program.model_proto).run(None, {name: given(2, seed=5).numpy()})
        torch.testing.assert_close(torch.from_numpy(found), snn(given(2, seed=5)), rtol=1e-5, atol=1e-5)


def test_casts_and_copies_keep_its_precision(model: Any) -> None:
    snn = converted(model, given())
    wanted = fxsnn.nir_input(snn, given(4))
    assert torch.equal(fxsnn.nir_input(snn.half().float(), given(4)), wanted)
    other = converted(model, given(8, seed=9))
    other.load_state_dict(snn.state_dict())
    assert torch.equal(fxsnn.nir_input(other, given(4)), wanted)


class TestInsight:
    def test_the_last_stage_makes_the_very_spikes(self, model: Any, snn: fxsnn.SpikingNetwork) -> None:
        stages = stage_networks(model, snn)
        torch.testing.assert_close(stages["timing"](given(4).double()).float(), snn(given(4)), rtol=1e-5, atol=1e-5)
        with torch.no_grad():
            torch.testing.assert_close(stages["ann"](given(4).double()).float(), model(given(4)), rtol=1e-5, atol=1e-5)

    def test_the_error_budget_adds_up(self, model: Any, snn: fxsnn.SpikingNetwork) -> None:
        budget = fxsnn.error_budget(model, snn, (given(), torch.arange(16) % 5))
        assert [row.layer for row in budget.layers] == ["1", "3", "4"]
        first = budget.layers[0]
        assert first.distance < 0.2

    def test_activations_are_held_against_each_other(self, model: Any, snn: fxsnn.SpikingNetwork) -> None:
        for analog, spiking in layer_activations(model, snn, given()).values():
            assert float(torch.corrcoef(torch.stack([analog.flatten(), spiking.flatten()]))[0, 1]) > 0.9

    def test_layers_around_a_batch_norm_behind_a_relu_are_matched(self) -> None:
        layers = [nn.Conv2d(3, 6, 3), nn.ReLU(), nn.BatchNorm2d(6), nn.Conv2d(6, 6, 3), nn.ReLU(), nn.Flatten()]
        model = seeded(lambda: nn.Sequential(*layers, nn.Linear(384, 5)))
        snn = converted(model, given())
        assert list(layer_activations(model, snn, given())) == ["0", "3"]
        stages = stage_networks(model, snn)
        torch.testing.assert_close(stages["timing"](given(4).double()).float(), snn(given(4)), rtol=1e-5, atol=1e-5)


class TestTheRange:
    def test_is_told_of_the_images_as_the_user_gives_them(self, snn: fxsnn.SpikingNetwork) -> None:
        unit = encoder(snn).unit
        lowest, highest = (-127 * unit + 1) / 2, (127 * unit + 1) / 2  # of the channel with the widest range
        with pytest.warns(fxsnn.AccuracyWarning, match="images range from 0 to 255") as told:
            snn(255 * given(4))
        assert f"calibrated for {lowest:.4g} to {highest:.4g}" in str(told[0].message)

    def test_is_that_of_what_is_rounded(self) -> None:
        centred = Affine(torch.tensor([1.0]), torch.tensor([-0.5]))
        assert unlike_calibration(torch.full((2, 1, 4, 4), 0.5), 1 / 127, 8, centred) is None
        dark = unlike_calibration(torch.full((2, 1, 4, 4), 0.501), 1 / 127, 8, centred)
        assert dark is not None
        assert "-0.5 to 1.5" in dark

    def test_a_network_that_ignores_its_images_says_nothing_odd(self) -> None:
        nothing = Affine(torch.zeros(1), torch.full((1,), 9.0))
        assert unlike_calibration(torch.rand(2, 1, 4, 4), 1 / 127, 8, nothing) is not None

    def test_ordinary_images_are_no_reason_to_warn(self, model: Any) -> None:
        snn = converted(model, given())
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            snn(given(4))


def test_signals_and_vectors_are_normalised_too() -> None:
    signals = seeded(
        lambda: nn.Sequential(
            nn.BatchNorm1d(2), nn.Conv1d(2, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(48, 5)
        )
    )
    images = torch.rand(16, 2, 12)
    snn = converted(signals, images, timesteps=128)
    assert encoder(snn).affine is not None
    assert encoder(snn).form == ImageForm(2, 3)
    with torch.no_grad():
        assert float((snn(images) - signals(images)).abs().mean()) < 0.1 * float(signals(images).abs().mean())


def test_the_encoder_says_what_it_does() -> None:
    affine = Affine(torch.tensor([2.0]), torch.tensor([-1.0]))
    form = ImageForm(1, 4)
    assert "of images * scale + shift (scale=2, shift=-1)" in Encode(0.5, 8, form, affine).extra_repr()
    assert "of images * scale + shift (scale=2, shift=-1)" in QuantizedInput(0.5, 8, affine).extra_repr()
    assert Encode(0.5, 8, form).extra_repr() == "unit=0.5, bits=8"
